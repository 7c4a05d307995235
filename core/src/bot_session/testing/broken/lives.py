"""Broken in how they live: opening, closing, outages, cancellation, and the loop that they share."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bot_session.errors import ConflictError, SchemaError, UnavailableError
from bot_session.storage import ANY, Match, Record, Version

from .storages import Broken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .sound import Client, Database

# ---------------------------------------------------------------------- opening and closing


class CreatesTwice(Broken):
    """Creates its table without minding that other workers start at the same moment."""

    caught_by = "test_many_instances_open_a_new_database_at_once"

    async def _create(self) -> None:
        if self.database.sessions is None:
            try:
                await self.database.create_sessions()
            except FileExistsError as error:
                raise SchemaError("the table cannot be created", operation="open", storage=self) from error


class ClosesTwice(Broken):
    """Closes its client again, which is an error with most drivers."""

    caught_by = "test_opening_and_closing_twice_is_no_error"

    async def close(self) -> None:
        if self._state == "closed":
            raise RuntimeError("the client is closed already")
        await super().close()


class WorksAfterClosing(Broken):
    """Connects again when it is used after closing, and nobody ever closes that connection."""

    caught_by = "test_after_closing_every_method_raises_closed_error"

    async def _ready(self, operation: str, key: str | None = None) -> None:  # noqa: ARG002
        await self.open()


class ClosesInjectedClient(Broken):
    """Closes a client that it was given: the rest of the program stands without one."""

    caught_by = "test_an_injected_client_stays_open"

    async def _close(self) -> None:
        self.client.close()


class FlushesDatabase(Broken):
    """Clears the whole database to clear itself: other programs' data is gone."""

    caught_by = "test_what_others_keep_in_the_database_is_neither_seen_nor_touched"

    async def purge(self) -> int:
        count = await super().purge()
        self.database.orders.clear()
        return count


class GivesUpOpening(Broken):
    """Marks itself as opening; if the first call is cancelled meanwhile, it stays so for ever."""

    caught_by = "test_a_first_use_that_is_cancelled_leaves_it_usable"
    _opening = False

    async def _open(self) -> None:
        if self._opening:
            raise SchemaError("it is being opened", operation="open", storage=self)
        self._opening = True
        await asyncio.sleep(0)
        await super()._open()
        self._opening = False


class BelongsToOneLoop(Broken):
    """Keeps what belongs to the loop in which it was first opened: the next ``asyncio.run`` cannot use it."""

    caught_by = "test_closed_in_one_loop_it_works_in_another"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _open(self) -> None:
        await super()._open()
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")


class LeavesATask(Broken):
    """Starts a task when it is opened, for keeping alive or reaping, and forgets it when it is closed."""

    caught_by = "test_closing_leaves_nothing_running"

    async def _open(self) -> None:
        await super()._open()
        self._task = asyncio.create_task(asyncio.Event().wait())


class ForgetsOnClosing(Broken):
    """Acknowledges a write when it is queued, and forgets the queue when it is closed."""

    caught_by = "test_closing_loses_nothing_that_was_acknowledged_meanwhile"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        version = await super().write(key, value, ttl=ttl, match=match)
        entry = self._entries.pop(key)

        def arrive() -> None:
            if self._state == "open":
                self._entries[key] = entry

        asyncio.get_running_loop().call_soon(arrive)
        return version


class EndsLoopsOnClosing(Broken):
    """Ends an iteration when it is closed, as if there were no more."""

    caught_by = "test_closing_never_just_ends_the_loop"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key in super().read_all_keys(prefix, batch_size=batch_size):
            yield key
            if self._state != "open":
                return


# ---------------------------------------------------------------------- outages


class ErrorsAreMisses(Broken):
    """Returns None when the database does not answer: the session starts afresh and overwrites the old one."""

    caught_by = "test_an_unreachable_backend_is_an_error_and_never_a_miss"

    async def read(self, key: str) -> Record | None:
        try:
            return await super().read(key)
        except UnavailableError:
            return None


class CutsAreMisses(Broken):
    """Takes a broken connection for an empty answer."""

    caught_by = "test_after_a_cut_no_call_takes_an_error_for_a_miss"

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        try:
            return await super().read_many(keys)
        except UnavailableError:
            return {}


class NeverReconnects(Broken):
    """Keeps the broken connection for ever: after a restart of the database the bot must be restarted."""

    caught_by = "test_after_a_cut_it_works_again"

    async def _open(self) -> None:
        await super()._open()
        self.client.reconnects = False


class OutagesAreFalse(Broken):
    """Says that there was nothing to delete when the database does not answer: a user's data stays."""

    caught_by = "test_after_a_cut_no_call_takes_an_error_for_a_miss"

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        try:
            return await super().delete(key, match=match)
        except UnavailableError:
            return False


class LeaksDriverErrors(Broken):
    """Maps the driver's errors, but not where it purges: a nightly job dies of what nobody expects."""

    caught_by = "test_after_a_cut_purge_takes_no_error_for_nothing_to_do"

    async def purge(self) -> int:
        try:
            return await super().purge()
        except UnavailableError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None


# ---------------------------------------------------------------------- tasks and the loop


class LocksForEver(Broken):
    """Takes a lock, or a connection of its pool, and does not give it back when the call is cancelled."""

    caught_by = "test_cancelled_calls_leave_it_usable"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._lock = asyncio.Lock()

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        self._validate("write", key, value, ttl)
        await self._lock.acquire()
        try:
            version = await super().write(key, value, ttl=ttl, match=match)
        except ConflictError:
            self._lock.release()
            raise
        self._lock.release()
        return version


class LocksWhileIterating(Broken):
    """Lets nobody write while somebody iterates: a loop that writes waits for itself."""

    caught_by = "test_deleting_each_key_as_it_comes_skips_none"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._lock = asyncio.Lock()

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async with self._lock:
            async for key in super().read_all_keys(prefix, batch_size=batch_size):
                yield key

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        async with self._lock:
            return await super().delete(key, match=match)


class SwallowsCancellation(Broken):
    """Returns as if it had written when it is cancelled: timeouts never fire, and nothing is saved."""

    caught_by = "test_cancelled_calls_leave_it_usable"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        try:
            return await super().write(key, value, ttl=ttl, match=match)
        except asyncio.CancelledError:
            return Version(value)


class BlocksTheLoop(Broken):
    """Waits for a driver that blocks: while one user is read, all others stand still."""

    caught_by = "test_no_call_holds_up_the_loop"

    async def read(self, key: str) -> Record | None:
        time.sleep(0.05)  # noqa: ASYNC251 - that is the fault
        return await super().read(key)
