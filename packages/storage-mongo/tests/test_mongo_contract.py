"""The contract, on every kind of client."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from bot_session.testing import StorageContract
from bot_session.testing.contract.base import ContractBase
from bot_session.testing.contract.batches import Batches
from bot_session.testing.contract.keys import Keys
from bot_session.testing.contract.matching import Matching
from bot_session.testing.proxy import Proxy
from bot_session_storage_mongo import MongoStorage
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pymongo.uri_parser import parse_uri

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bot_session.storage import Storage
    from bot_session.testing.contract import MakeStorage, StillWorks
    from bot_session.testing.servers import Server

# PyMongo leaves a socket to the garbage collector when it is cancelled while it connects.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_collected"),
]

_numbers = itertools.count(1)


class BackDoors(ContractBase):
    """A database for each test, and ways into it past the storage."""

    keeps_text = False
    crowd_size = 5_000
    client_class: Any = AsyncMongoClient

    @pytest.fixture(autouse=True)
    def database(self, mongo_server: Server) -> Iterator[None]:
        """Make a database for this test alone."""
        self.url = self.address = mongo_server.url
        self.server = mongo_server.version
        self.name = f"contract-{next(_numbers)}"
        with MongoClient[dict[str, Any]](self.url) as client:
            self.back_door = client[self.name]
            yield
            client.drop_database(self.name)

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        def make(**options) -> Storage:
            return MongoStorage(self.address, **{"database": self.name, **options})

        return make

    async def expire_now(self, storage: Storage, key: str) -> None:
        result = self.back_door.sessions.update_one({"key": key}, [{"$set": {"expires_at": "$$NOW"}}])

        assert result.matched_count == 1

    async def plant_foreign(self, storage: Storage) -> None:
        self.back_door.sessions2.insert_one({"key": "b", "value": 9})
        self.back_door.sessions.insert_one({"key": 7, "value": 9})

    async def foreign_is_untouched(self, storage: Storage) -> None:
        for name, key in (("sessions2", "b"), ("sessions", 7)):
            assert self.back_door[name].find_one({"key": key}, {"_id": 0}) == {"key": key, "value": 9}

    async def forbid(self, storage: Storage, key: str) -> None:
        self.back_door.command("collMod", "sessions", validator={"key": {"$ne": key}})

    async def crowd(self, storage: Storage, n: int) -> None:
        self.back_door.sessions.insert_many([{"key": f"crowd:{i}", "value": 0} for i in range(n)])

    def make_unreachable(self) -> Storage:
        return MongoStorage("mongodb://127.0.0.1:1/", timeout=0.3)

    @contextlib.asynccontextmanager
    async def injected(self) -> AsyncIterator[tuple[MakeStorage, StillWorks]]:
        client = self.client_class(self.url)

        def make(**options) -> Storage:
            return MongoStorage(client[self.name].sessions, **options)

        async def still_works() -> None:
            await client.admin.command("ping")

        try:
            yield make, still_works
        finally:
            closed = client.close()
            if inspect.isawaitable(closed):
                await closed

    def versions(self) -> dict[str, str]:
        ours = "bot-session-storage-mongo"
        return {ours: version(ours), "pymongo": version("pymongo"), "server": self.server}


class TestMongoContract(BackDoors, StorageContract):
    """A URL."""

    @pytest.fixture(autouse=True)
    async def between(self, database: None) -> AsyncIterator[None]:
        """Stand between storage and server, to cut connections."""
        async with Proxy(*parse_uri(self.url)["nodelist"][0]) as self.proxy:
            self.address = f"mongodb://127.0.0.1:{self.proxy.port}/?directConnection=true"
            yield

    async def cut_connection(self, storage: Storage | None) -> None:
        await self.proxy.cut()


class TestMotorContract(TestMongoContract):
    """Collections of Motor's, whose clients live as long as a test."""

    client_class = AsyncIOMotorClient
    owns_client = False

    @pytest.fixture
    async def make_storage(self, between: None) -> AsyncIterator[MakeStorage]:
        client = AsyncIOMotorClient(self.address)
        yield lambda **options: MongoStorage(client[self.name].sessions, **options)
        # It says good-bye to the server through the proxy, which runs in this loop.
        await asyncio.to_thread(client.close)


class TestReplicaSet(BackDoors, Keys, Matching, Batches):
    """A URL with ``replicaSet``: the driver asks who is the primary, and goes to the address by which that calls itself."""

    @pytest.fixture(autouse=True)
    def replica_set(self, database: None, mongo_replica_set: str) -> None:
        self.address = mongo_replica_set
