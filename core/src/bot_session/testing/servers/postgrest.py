"""
PostgREST as Supabase has it: over a database with its roles, behind a gateway at ``/rest/v1``.

The server is PostgREST in a container; where its image cannot be had it is postrust, which speaks PostgREST's protocol
and reads its settings, built once with cargo and kept in the user's cache. One from the environment has to serve the
database `DATABASE` of `postgres_server` to `LOGIN`, and to know `SECRET`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import pytest

from bot_session.errors import SchemaError
from bot_session.testing.listener import InThread, Listener

from .base import HOST, START_TIMEOUT, Container, Owned, Process, Server, find_server, free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from bot_session.storage import Storage

__all__ = ["DATABASE", "LOGIN", "MAX_ROWS", "SECRET", "Supabase", "postgrest_server"]

DATABASE: Final = "bot_session_rest"
LOGIN: Final = "authenticator"
SECRET: Final = "a secret of at least thirty-two characters"  # noqa: S105
"""What keys are signed with."""

MAX_ROWS: Final = 3
"""How many rows an answer may have: so few that whoever counts on more is found out."""

_POSTRUST: Final = "3.1.0"
_PREFIX: Final = b"/rest/v1"

# Roles belong to the whole server, and other workers may be making them, too.
_ROLES: Final = f"""
DO $$ BEGIN
    PERFORM pg_advisory_xact_lock(20240229);
    IF to_regrole('{LOGIN}') IS NULL THEN
        CREATE ROLE anon NOLOGIN;
        CREATE ROLE service_role NOLOGIN BYPASSRLS;
        CREATE ROLE {LOGIN} LOGIN NOINHERIT PASSWORD '{LOGIN}';
        GRANT anon, service_role TO {LOGIN};
    END IF;
END $$;
GRANT USAGE ON SCHEMA public TO anon, service_role;
"""


@dataclass(frozen=True)
class Supabase:
    """
    What a Supabase project is to its clients, and the back doors behind it.

    Attributes:
        url: The project's address.
        database: The address of its database, for a user who may do everything.
        server: The PostgREST server.
        gateway: What stands before it.
    """

    url: str
    database: str
    server: Server
    gateway: Gateway

    def key(self, role: str) -> str:
        """Return an API key for ``role``: ``"anon"`` or ``"service_role"``, or another that `LOGIN` may become."""
        parts = [{"alg": "HS256", "typ": "JWT"}, {"role": role, "exp": 4_102_444_800}]
        text = b".".join(_base64(json.dumps(part).encode()) for part in parts)
        signature = hmac.digest(SECRET.encode(), text, hashlib.sha256)
        return (text + b"." + _base64(signature)).decode()

    async def execute(self, statements: str) -> None:
        """Run statements in the database, as an operator does in the SQL editor."""
        await _execute(self.database, statements)

    async def install(self, storage: Storage) -> None:
        """Run the ``ddl`` of a storage, and wait until PostgREST has seen what it made."""
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                # It ends with the NOTIFY that reloads PostgREST's schema cache, which a server misses that has just
                # started, or whose database has. So it is repeated once a second.
                await self.execute(storage.ddl())
                for _ in range(100):
                    try:
                        return await storage.open()
                    except SchemaError:
                        await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def postgrest_server(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    """A PostgREST before a database of its own."""
    address = urlsplit(postgres_server.url)
    database = urlunsplit(address._replace(path=f"/{DATABASE}"))
    _in_thread(_prepare(postgres_server.url, database))
    port = free_port()

    def settings(host: str, listen: str, port: int) -> dict[str, str]:
        return {
            "PGRST_DB_URI": f"postgres://{LOGIN}:{LOGIN}@{host}:{address.port}/{DATABASE}",
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_MAX_ROWS": str(MAX_ROWS),
            "PGRST_JWT_SECRET": SECRET,
            "PGRST_SERVER_HOST": listen,
            "PGRST_SERVER_PORT": str(port),
            "PGRST_DB_CHANNEL_ENABLED": "true",
            # postrust's own: PostgREST's paths and errors, and bodies without a limit worth the name.
            "PGRST_COMPAT_MODE": "true",
            "PGRST_MAX_BODY_SIZE": str(64 * 1024 * 1024),
        }

    def container(image: str) -> Owned:
        return Container(image, {port: 3000}, environment=settings(HOST, "0.0.0.0", 3000))  # noqa: S104

    def built() -> Owned:
        return Process(
            [_postrust()], tmp_path_factory.mktemp("postgrest"), environment=settings("127.0.0.1", "127.0.0.1", port)
        )

    with (
        find_server(
            "postgrest",
            url=f"http://127.0.0.1:{port}",
            ready=_version,
            # A container reaches the ports of other containers, but not what listens on this machine's 127.0.0.1.
            container=container if postgres_server.source == "container" else None,
            wheel=built,
            stand_in=True,
        ) as server,
        Gateway(server.url) as gateway,
    ):
        yield Supabase(gateway.url, database, server, gateway)


# ---------------------------------------------------------------------- the server


def _postrust() -> Path:
    """Return the program, having built it if need be."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise ImportError("to build postrust, install cargo (Rust)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = cache / "bot-session" / f"postrust-{_POSTRUST}"
    program = root / "bin" / "postrust"
    if not program.exists():
        sys.stderr.write("\nbuilding postrust, the server for the Supabase tests: once, for two or three minutes\n")
        # cargo lets one build and the others wait. Not optimised: that would take several times as long.
        command = [cargo, "install", "--quiet", "--debug", "--root", str(root), f"postrust-server@{_POSTRUST}"]
        subprocess.run(command, check=True, timeout=1_800)  # noqa: S603
    return program


def _version(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        return answer.headers.get("Server") or f"postrust {_POSTRUST}"  # which does not say who it is


async def _prepare(server: str, database: str) -> None:
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415

    with contextlib.suppress(asyncpg.DuplicateDatabaseError):
        await _execute(server, f"CREATE DATABASE {DATABASE}")
    await _execute(database, _ROLES)


async def _execute(database: str, statements: str) -> None:
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(database)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


def _in_thread(work: Coroutine[Any, Any, None]) -> None:
    with ThreadPoolExecutor(1) as thread:  # this one may have a running loop
        thread.submit(asyncio.run, work).result()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# ---------------------------------------------------------------------- the gateway


class Gateway(InThread):
    """Takes ``/rest/v1`` off the path of requests, as Supabase's gateway does, and passes them on."""

    def __init__(self, upstream: str) -> None:
        super().__init__(Listener(self._serve))
        address = urlsplit(upstream)
        self._upstream = address.hostname, address.port

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.listener.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(*self._upstream)
        with contextlib.closing(requests):
            # The answers are passed on as they are; with their end, or that of the requests, all ends.
            passing = asyncio.create_task(_pass_on(answers, writer))
            passing.add_done_callback(lambda _: writer.close())
            try:
                await _take_off(reader, requests)
            finally:
                passing.cancel()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()


async def _take_off(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on request after request, each with another path."""
    while True:
        head = await source.readuntil(b"\r\n\r\n")
        method, path, rest = head.split(b" ", 2)
        target.write(b" ".join([method, path.removeprefix(_PREFIX), rest]))
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        left = int(length[1]) if length else 0
        while left:
            data = await source.read(min(left, 65536))
            if not data:
                return
            left -= len(data)
            target.write(data)
            await target.drain()
