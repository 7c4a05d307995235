"""A MongoDB server: a real one where there is a container, else SecantusDB, which speaks MongoDB's protocol."""

from __future__ import annotations

import importlib
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from .base import Container, Owned, Process, Server, find_server, free_port, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo import MongoClient

__all__ = ["mongo_replica_set", "mongo_server"]


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


@pytest.fixture(scope="session")
def mongo_replica_set(mongo_server: Server) -> str:
    """The address of `mongo_server` as a replica set; skip where it is none, or is not reached as it names itself."""
    with _client(mongo_server.url) as client:
        told = client.admin.command("hello")
    address = urlsplit(mongo_server.url).netloc
    if told.get("primary") != address.rpartition("@")[2]:
        pytest.skip("the MongoDB server is no replica set, or names itself by an address that is not reached from here")
    return f"mongodb://{address}/?replicaSet={told['setName']}"


def _in_container(port: int, image: str) -> Owned:
    return Container(image, {port: 27017})


def _from_wheel(port: int, folder: Path) -> Owned:
    importlib.import_module("secantus")
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data")]
    return Process([sys.executable, "-m", "secantus", *arguments, "--enable-test-commands"], folder)


def _client(url: str) -> MongoClient[dict[str, Any]]:
    try:
        from pymongo import MongoClient  # noqa: PLC0415
    except ImportError as error:
        unavailable(str(error))
    return MongoClient(url, serverSelectionTimeoutMS=1000)


def _version(url: str) -> str:
    # The driver leaves a socket open for each connection that is refused.
    for address in urlsplit(url).netloc.rpartition("@")[2].split(","):
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port or 27017)), 1).close()
    with _client(url) as client:
        info = client.server_info()
    # SecantusDB names the MongoDB version that it is held to as its version.
    return f"secantusdb {info['secantusVersion']}" if "secantusVersion" in info else f"mongodb {info['version']}"
