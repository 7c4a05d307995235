"""aiosqlite's connections: opening a database, running functions on their threads, and outliving these."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

import aiosqlite

from ._failures import code

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MEMORY: Final = ":memory:"
CACHE: Final = 16_000
"""KiB of pages to keep in memory at most, so that a bot of ten thousand sessions seldom asks the disk for any."""
POLL: Final = 0.005
"""Seconds between two looks at something that tells nobody when it changes."""
_SETTINGS: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", f"PRAGMA cache_size = -{CACHE}")

# Closing any file descriptor of a database drops the locks that this process holds on it, so a new file is made and
# closed while no other storage of this process can have opened it.
_creating = threading.Lock()


def connect(path: str, *, create: bool, timeout: float) -> sqlite3.Connection:
    """
    Open a database file, such that several processes can use it and what is committed is on the disk.

    The connection never waits for a lock by itself, and any thread may use it.

    Raises:
        sqlite3.OperationalError: SQLite cannot open it.
        OSError: It cannot be created; or it is there, and cannot be opened for want of something else.
    """
    if path == MEMORY:
        return sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False)
    file = Path(path)
    if create:
        # Sessions are private, and SQLite gives its other files the rights of the first.
        with _creating, suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        uri = f"{file.as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, timeout=0, isolation_level=None, check_same_thread=False, uri=True)
    except sqlite3.OperationalError as error:
        readable = os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
        if code(error) == sqlite3.SQLITE_CANTOPEN and file.is_file() and readable:
            raise OSError(f"{file} is there, but cannot be opened now: {error}") from error  # no descriptor is free
        raise
    try:
        _set_up(connection, time.monotonic() + timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, deadline: float) -> None:
    for setting in _SETTINGS:
        while True:
            try:
                connection.execute(setting)
            except sqlite3.OperationalError as error:
                if code(error) == sqlite3.SQLITE_READONLY:
                    break  # Whatever the mode is, it can be read.
                # Processes that start together get in each other's way.
                if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(POLL)
            else:
                break


async def started(make: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Return a connection, open, whose thread keeps nobody waiting."""
    connection = aiosqlite.Connection(make, iter_chunk_size=64)
    thread = _thread(connection)
    # A program that ends without close() should end, not wait for this thread; what is committed is safe.
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        # aiosqlite does not wait for the thread, which has a last word for an event loop that may be closed.
        await asyncio.to_thread(thread.join)
        raise


async def on_thread(connection: aiosqlite.Connection, function: Callable[[], T]) -> T:
    """Run a function on the connection's thread."""
    # aiosqlite has no public way to run a function on its thread, only single statements: a trip for each, and with
    # other tasks' statements, or a cancellation, in the middle of a transaction.
    result: T = await connection._execute(function)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return result


async def survives(connection: aiosqlite.Connection) -> bool:
    """
    Wait until the connection's thread has done all that it was given, and return whether it is there still.

    A result for an event loop that is closed makes aiosqlite's thread end with an error, and what it was given after
    that is never done.
    """
    thread = _thread(connection)
    done = asyncio.ensure_future(on_thread(connection, bool))
    try:
        while not (await asyncio.wait([done], timeout=POLL))[0]:
            if not thread.is_alive():
                return False
    finally:
        done.cancel()
    await done
    return True


def revived(connection: aiosqlite.Connection, raw: sqlite3.Connection) -> aiosqlite.Connection:
    """Return what takes the place of a connection whose thread has ended: with a new thread, for the same database."""
    another = aiosqlite.Connection(lambda: raw, iter_chunk_size=64)
    # Awaiting it would do the same, but not at once, and two tasks could begin with it.
    another._connection = raw  # noqa: SLF001
    # Or it would complain that it was not closed. Whoever is about to ask whether it survives is let first.
    asyncio.get_running_loop().call_soon(setattr, connection, "_connection", None)
    thread = _thread(another)
    thread.daemon = True
    thread.start()
    return another


def _thread(connection: aiosqlite.Connection) -> threading.Thread:
    # Before aiosqlite 0.22 the connection is the thread.
    return cast("threading.Thread", vars(connection).get("_thread", connection))
