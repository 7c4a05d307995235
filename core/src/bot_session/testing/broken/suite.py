"""The contract for the sound storage and for each broken one, as test classes: ``TestIgnoresTtl`` and so on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, cast

import pytest

from bot_session.testing.contract import StorageContract

from . import BROKEN
from .sound import Client, Database, SoundStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot_session.storage import Storage
    from bot_session.testing.contract import MakeStorage, StillWorks

__all__ = ["SoundContract"]

ORDERS = {"42": "one pizza", "k": "not a session"}


class SoundContract(StorageContract):
    """The contract with every back door that there is."""

    storage_class: ClassVar[type[SoundStorage]] = SoundStorage
    patience = 1.0

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        database = Database()
        return lambda: self.storage_class(database)

    async def expire_now(self, storage: Storage, key: str) -> None:
        sessions = self.database_of(storage).sessions
        assert sessions is not None
        sessions[key] = (sessions[key][0], 0.0)

    async def plant_foreign(self, storage: Storage) -> None:
        self.database_of(storage).orders.update(ORDERS)

    async def foreign_is_untouched(self, storage: Storage) -> None:
        assert self.database_of(storage).orders == ORDERS

    async def cut_connection(self, storage: Storage) -> None:
        cast("SoundStorage", storage).client.was_cut = True

    async def forbid(self, storage: Storage, key: str) -> None:
        self.database_of(storage).forbidden.add(key)

    def make_unreachable(self) -> Storage:
        return self.storage_class(Database(reachable=False))

    @asynccontextmanager
    async def injected(self) -> AsyncIterator[tuple[MakeStorage, StillWorks]]:
        client = Client(Database())

        async def still_works() -> None:
            assert isinstance(client.sessions, dict)

        yield lambda: self.storage_class(client.database, client=client), still_works

    def database_of(self, storage: Storage) -> Database:
        """Return the database that a storage uses."""
        return cast("SoundStorage", storage).database


for _broken in BROKEN:
    _name = f"Test{_broken.__name__}"
    globals()[_name] = type(_name, (SoundContract,), {"storage_class": _broken, "__module__": __name__})
