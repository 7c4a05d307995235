"""PgBouncer, which has neither a wheel nor, so that it finds our PostgreSQL, a container: the machine's own."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from .base import Server, free_port
from .postgres import Unprivileged, open_folder, postgres_version

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pgbouncer"]

_CONFIGURATION = """
[databases]
postgres = host={host} port={their_port} dbname={database} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 3
unix_socket_dir =
"""


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: Server) -> Iterator[Server]:
    """Pool three connections to `postgres_server`, each lent for one transaction; skip where it is not installed."""
    if given := os.environ.get("BOT_SESSION_TEST_PGBOUNCER_URL"):
        yield Server(given, "environment", postgres_version)
        return
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port, folder, behind = free_port(), open_folder("pgbouncer"), urlsplit(postgres_server.url)
    configuration = _CONFIGURATION.format(
        port=port,
        host=behind.hostname,
        their_port=behind.port or 5432,
        database=behind.path[1:],
        user=behind.username,
        password=behind.password or "",
    )
    (folder / "pgbouncer.ini").write_text(configuration)
    owned = Unprivileged([program, folder / "pgbouncer.ini"], folder)
    try:
        owned.start()
        yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", "environment", postgres_version, owned)
    finally:
        owned.remove()
