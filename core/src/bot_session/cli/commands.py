"""What the command does: a function for each of its subcommands, which returns the exit code."""

from __future__ import annotations

import dataclasses
import re
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_session import sealing
from bot_session.copying import copy_documents
from bot_session.errors import BotSessionError, CodecError, ConfigurationError, StorageError
from bot_session.leases import is_lease
from bot_session.redaction import hide_secrets
from bot_session.storage import Capabilities, Storage
from bot_session.urls import find_storage, open_storage, options_of, storage_schemes
from bot_session.wrappers import ObservedStorage, StorageEvent, locate

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator

    from .terminal import Terminal

__all__ = [
    "check",
    "copy",
    "count",
    "ddl",
    "delete",
    "generate_key",
    "keys",
    "purge",
    "seal",
    "show",
    "storages",
]


async def keys(arguments: Namespace, terminal: Terminal) -> int:
    """List the keys of all sessions."""
    async with _opened(arguments.url) as storage:
        async for key in _keys(storage, arguments.prefix):
            terminal.tell(key, key=key)
    return 0


async def count(arguments: Namespace, terminal: Terminal) -> int:
    """Count the sessions."""
    found = 0
    async with _opened(arguments.url) as storage:
        async for _ in _keys(storage, arguments.prefix):
            found += 1
            terminal.progress(found, "sessions")
    terminal.tell(str(found), count=found)
    return 0


async def show(arguments: Namespace, terminal: Terminal) -> int:
    """Show the document of a session, as it is stored; with --key-file, decrypted."""
    key = arguments.key
    async with _opened(arguments.url) as storage:
        record = await storage.read(key)
        place = locate(storage, key)[1]
    if record is None:
        raise _missing(key)
    document = record.value
    if arguments.key_file is not None:
        try:
            document = _seal(arguments.key_file, accept_plain=True).unseal(document, place)
        except CodecError as error:
            error.key = key
            raise
    terminal.tell_document(key, document, record.ttl)
    return 0


async def delete(arguments: Namespace, terminal: Terminal) -> int:
    """Delete a session."""
    async with _opened(arguments.url) as storage:
        if not await storage.delete(arguments.key):
            raise _missing(arguments.key)
    terminal.tell(f"deleted {arguments.key}", deleted=arguments.key)
    return 0


async def copy(arguments: Namespace, terminal: Terminal) -> int:
    """Copy sessions into another storage, with their remaining life. Stop the bots before."""
    async with _opened(arguments.url) as source, _opened(arguments.target, create=True) as target:
        copied, kept = await copy_documents(
            source,
            _with_progress(target, terminal),
            prefix=arguments.prefix,
            overwrite=arguments.overwrite,
        )
    there = f", {kept:,} were there already and stay (--overwrite replaces them)" if kept else ""
    terminal.tell(f"copied {copied:,}{there}", copied=copied, kept=kept)
    return 0


async def purge(arguments: Namespace, terminal: Terminal) -> int:
    """Free the space of expired sessions. Run it daily, where the storage does not do it by itself."""
    async with _opened(arguments.url) as storage:
        purged = await storage.purge()
    terminal.tell(f"purged {purged:,}", purged=purged)
    return 0


async def check(arguments: Namespace, terminal: Terminal) -> int:
    """Say whether the storage can be used now: by the exit code, for health checks."""
    start = time.perf_counter()
    async with _opened(arguments.url) as storage:
        await storage.check()
    seconds = time.perf_counter() - start
    terminal.tell(f"ok: {storage!r}, {seconds * 1000:.0f} ms", storage=repr(storage), seconds=round(seconds, 6))
    return 0


async def ddl(arguments: Namespace, terminal: Terminal) -> int:
    """Print the statements that create what the storage needs in a database."""
    statements = open_storage(arguments.url).ddl()
    if statements:
        terminal.tell_statements(statements)
    else:
        terminal.remark("this storage needs none")
    return 0


async def seal(arguments: Namespace, terminal: Terminal) -> int:
    """
    Encrypt all sessions with the current key: the first of --key-file.

    Bots may go on meanwhile, if they know all the keys. Afterwards nobody needs the older ones any more.
    """
    keyring = _seal(arguments.key_file, compress=arguments.compress, accept_plain=arguments.accept_plain)
    failed: list[CodecError] = []

    def tell(error: CodecError) -> None:
        failed.append(error)
        terminal.complain(str(error))

    async with _opened(arguments.url) as storage:
        written, kept = await sealing.reseal_documents(
            _with_progress(storage, terminal), keyring, prefix=arguments.prefix, on_error=tell
        )
    terminal.tell(
        f"encrypted {written:,}, {kept:,} were already" + (f", {len(failed):,} failed" if failed else ""),
        written=written,
        kept=kept,
        failed=len(failed),
    )
    return 1 if failed else 0


async def generate_key(_: Namespace, terminal: Terminal) -> int:
    """Make a new encryption key. Keep it as you keep the bot's token."""
    terminal.tell_statements(sealing.generate_key())
    return 0


async def storages(_: Namespace, terminal: Terminal) -> int:
    """List the storages that are installed, and what they can do."""
    for scheme in storage_schemes():
        try:
            cls = find_storage(scheme)
        except ConfigurationError as error:
            terminal.tell(f"{scheme:<15}  {error}", scheme=scheme, error=str(error))
            continue
        can = cls.capabilities if isinstance(getattr(cls, "capabilities", None), Capabilities) else None
        facts = dataclasses.asdict(can) if can else {}
        terminal.tell(
            f"{scheme:<15}  {cls.__name__:<16}  {_abilities(can)}", scheme=scheme, **{"class": cls.__name__, **facts}
        )
    return 0


def _missing(key: str) -> BotSessionError:
    return BotSessionError(f"nothing is stored under {key!r}")


@asynccontextmanager
async def _opened(url: str, *, create: bool = False) -> AsyncIterator[Storage]:
    """Open a storage, without making one where there is none unless asked for; and hide secrets in its errors."""
    options: dict[str, Any] = {}
    if not create and "create" in _options(url) and not re.search(r"[?&]create=", url):
        options["create"] = False
    try:
        async with open_storage(url, **options) as storage:
            yield storage
    except StorageError as error:
        message = hide_secrets(str(error.args[0]), url)
        error.args = (message, *error.args[1:])
        raise


def _options(url: str) -> set[str]:
    scheme = url.partition(":")[0].lower()
    if scheme not in storage_schemes():
        return set()  # `open_storage` says what is wrong
    return set(options_of(find_storage(scheme)))


async def _keys(storage: Storage, prefix: str) -> AsyncIterator[str]:
    """The keys of sessions, without those of leases."""
    async for key in storage.read_all_keys(prefix):
        if not is_lease(key):
            yield key


def _with_progress(storage: Storage, terminal: Terminal) -> Storage:
    done = 0

    def observe(event: StorageEvent) -> None:
        nonlocal done
        if event.operation == "write_many":
            done += event.keys
            terminal.progress(done, "documents")

    return ObservedStorage(storage, observe)


def _seal(path: str, *, compress: bool = False, accept_plain: bool = False) -> sealing.Seal:
    """Read a key file: a key a line, the current one first; empty lines and those that start with # are passed over."""
    try:
        lines = Path(path).read_text("ascii").split("\n")
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"the key file {path} holds something else than keys") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigurationError(f"the key file {path} is empty: bot-session generate-key makes a key")
    return sealing.Seal(*found, compress=compress, accept_plain=accept_plain)


def _abilities(can: Capabilities | None) -> str:
    if can is None:
        return ""
    words = ["shared" if can.shared else "one process", "durable" if can.durable else "not durable"]
    words += ["expires by itself" if can.native_expiry else "needs purge"]
    words += ["atomic batches"] if can.atomic_batches else []
    words += [f"keys up to {can.max_key_bytes:,} bytes"] if can.max_key_bytes is not None else []
    words += [f"documents up to {can.max_value_bytes:,} bytes"] if can.max_value_bytes is not None else []
    return ", ".join(words)
