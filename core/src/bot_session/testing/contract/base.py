"""What the author of an adapter supplies, and the fixtures that the groups of tests share."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeAlias

import pytest
import pytest_asyncio

from bot_session.storage import Storage, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

from collections.abc import Awaitable, Callable

__all__ = ["NOT_APPLICABLE", "ContractBase", "MakeStorage", "StillWorks", "keys_of"]

MakeStorage: TypeAlias = Callable[..., Storage]
"""Makes another storage over the test's database; not yet opened."""

StillWorks: TypeAlias = Callable[[], Awaitable[None]]
"""Raises unless an injected client can still be used."""

NOT_APPLICABLE = "not applicable: "
"""How the reason of a skip begins that says nothing against a storage."""


async def keys_of(storage: Storage, prefix: str = "", *, batch_size: int = 500) -> list[str]:
    """Return the keys under ``prefix``, sorted; a key that came twice is there twice."""
    return sorted([key async for key in storage.read_all_keys(prefix, batch_size=batch_size)])


@pytest.mark.asyncio
class ContractBase:
    """
    What the author of an adapter supplies: ``make_storage``, facts about the layout, back doors.

    A back door reaches the database *without* the storage's methods, so that those can be tested. Every test has to get
    a database, table, folder or namespace of its own.
    """

    keeps_text: ClassVar[bool] = True
    """Documents come back as the same text. False for native layouts (BSON, jsonb): then as the same data."""

    refuses: ClassVar[frozenset[str]] = frozenset()
    """Names of documents (see `contract.values.DOCUMENTS`) that the backend cannot hold, and which are refused."""

    connected: ClassVar[bool] = True
    """There is a connection that can break. False where storage and backend are one, as with memory and files."""

    owns_client: ClassVar[bool] = True
    """What `make_storage` makes connects by itself. False where it injects a client, which belongs to one loop."""

    crowd_size: ClassVar[int] = 2_000
    """How many documents of others `crowd` puts into the database."""

    patience: ClassVar[float] = 10.0
    """Seconds after which a call counts as hanging."""

    machine_examples: ClassVar[int] = 20
    """How many sequences of operations the state machine tries."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        """Return a function that makes another storage, not yet opened, over the one database of this test."""
        raise NotImplementedError("supply the fixture make_storage: see bot_session.testing.contract.base")

    # ------------------------------------------------------------------ back doors: supply those that are possible

    async def expire_now(self, storage: Storage, key: str) -> None:
        """Make the document under ``key``, which has a TTL, expire. By default by waiting for it."""
        record = await storage.read(key)
        assert record is not None, "only what is stored can expire"
        ttl = max(storage.capabilities.ttl_resolution, 0.05)
        await storage.write(key, record.value, ttl=ttl)
        await asyncio.sleep(ttl + storage.capabilities.ttl_resolution + 0.02)

    async def plant_foreign(self, storage: Storage) -> None:  # noqa: ARG002
        """Put data of another program into the database that ``storage`` uses."""
        self.skip("plant_foreign")

    async def foreign_is_untouched(self, storage: Storage) -> None:  # noqa: ARG002
        """Assert that what `plant_foreign` put there is still there, unchanged."""
        self.skip("foreign_is_untouched")

    async def crowd(self, storage: Storage, n: int) -> None:
        """Put ``n`` documents beside those of a test, under keys that begin with ``crowd:``."""
        for start in range(0, n, 1_000):
            await storage.write_many([Write(f"crowd:{i}", "0") for i in range(start, min(n, start + 1_000))])

    async def cut_connection(self, storage: Storage) -> None:  # noqa: ARG002
        """Break the connections that ``storage`` has; new ones succeed."""
        self.skip("cut_connection")

    async def forbid(self, storage: Storage, key: str) -> None:  # noqa: ARG002
        """Make the backend refuse to create a document under ``key``: by a constraint, or by what is there already."""
        self.skip("forbid")

    def make_unreachable(self) -> Storage:
        """Return a storage, not yet opened, whose backend is not there. Its timeout should be a second or less."""
        self.skip("make_unreachable")

    def injected(self) -> AbstractAsyncContextManager[tuple[MakeStorage, StillWorks]]:
        """
        Make a client, and close it at the end.

        Gives a function that makes storages over this one client, and a coroutine function that uses the client.
        """
        self.skip("injected")

    def versions(self) -> dict[str, str]:
        """Return for the report what was tested: versions of the distribution, the driver, the server."""
        return {}

    # ------------------------------------------------------------------ for the tests

    @pytest_asyncio.fixture(autouse=True)
    async def in_time(self) -> AsyncIterator[None]:
        """Cancel a test that hangs: whoever tries a storage need not have pytest-timeout, nor wait for ever."""
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            for task in asyncio.all_tasks(loop):
                task.cancel(f"the storage hangs: nothing for {6 * self.patience} seconds")

        timer = loop.call_later(6 * self.patience, give_up)
        yield
        timer.cancel()

    @pytest_asyncio.fixture
    async def storage(self, make_storage: MakeStorage) -> AsyncIterator[Storage]:
        """Return an open storage."""
        async with make_storage() as storage:
            yield storage

    @pytest_asyncio.fixture
    async def other(self, make_storage: MakeStorage, storage: Storage) -> AsyncIterator[Storage]:
        """Return a second storage over the same database; the same one where nothing is shared."""
        if not storage.capabilities.shared:
            yield storage
            return
        async with make_storage() as other:
            yield other

    def skip(self, back_door: str) -> NoReturn:
        """Skip a test for want of a back door."""
        if not self.connected and back_door in {"cut_connection", "make_unreachable", "injected", "forbid"}:
            pytest.skip(f"{NOT_APPLICABLE}there is no connection")
        pytest.skip(f"{type(self).__name__} supplies no {back_door}")

    def applies(self, condition: object, reason: str) -> None:
        """Skip a test that makes no sense for this storage."""
        if not condition:
            pytest.skip(NOT_APPLICABLE + reason)

    def comparable(self, document: str) -> str:
        """Return what must be alike of a document that was written and one that was read."""
        # Python's own comparison takes 1, 1.0 and True for the same; text does not.
        return document if self.keeps_text else json.dumps(json.loads(document), sort_keys=True)

    async def write_expired(self, storage: Storage, keys: Iterable[str]) -> None:
        """Write documents, and let them expire."""
        for key in keys:
            await storage.write(key, "1", ttl=60.0)
            await self.expire_now(storage, key)
