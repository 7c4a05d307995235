"""A MongoDB server: a real one where there is a container, else SecantusDB, which speaks MongoDB's protocol."""

from __future__ import annotations

import importlib
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from .base import Container, Owned, Process, Server, find_server, free_port, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["mongo_server"]


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A MongoDB that keeps its data on disk: it survives a restart, and a kill."""
    port = free_port()
    with find_server(
        "mongo",
        # Directly, since a member of a replica set names itself by an address that may exist in its container only.
        url=f"mongodb://127.0.0.1:{port}/?directConnection=true",
        ready=_version,
        container=partial(_in_container, port),
        wheel=lambda: _from_wheel(port, tmp_path_factory.mktemp("mongo")),
    ) as server:
        yield server


def _in_container(port: int, image: str) -> Owned:
    return Container(image, {port: 27017})


def _from_wheel(port: int, folder: Path) -> Owned:
    importlib.import_module("secantus")
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data")]
    return Process([sys.executable, "-m", "secantus", *arguments], folder)


def _version(url: str) -> str:
    try:
        from pymongo import MongoClient  # noqa: PLC0415
        from pymongo.uri_parser import parse_uri  # noqa: PLC0415
    except ImportError as error:
        unavailable(str(error))
    # The driver leaves a socket open for each connection that is refused.
    for address in parse_uri(url)["nodelist"]:
        socket.create_connection(address, 1).close()
    client: MongoClient[dict[str, Any]]
    with MongoClient(url, serverSelectionTimeoutMS=1000) as client:
        info = client.server_info()
    # SecantusDB names the MongoDB version that it is held to as its version.
    return f"secantusdb {info['secantusVersion']}" if "secantusVersion" in info else f"mongodb {info['version']}"
