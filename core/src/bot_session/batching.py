"""
Batching: operations in flight together travel together.

Reads and writes that are issued in one tick of the event loop, or while earlier ones are under way, are sent as one
`Storage.read_many` or `Storage.write_many`. Every caller gets its own result, version or error.
"""

from __future__ import annotations

import asyncio
import math
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast

from .errors import StorageError, UnavailableError
from .locks import KeyLocks
from .storage import ANY, Match, Record, Storage, Version, Write, WriteResult, WrittenAndRead
from .wrappers.base import StorageWrapper, locate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    _Both: TypeAlias = tuple[Sequence[Sequence[Write]], Sequence[str]]

__all__ = ["BatchedStorage"]

Q = TypeVar("Q")
R = TypeVar("R")

WORTH_SPLITTING: Final = 64
"""Operations that are sent in parts, as many as may be under way: the backend is busy with one as the next is made."""
MAX_WAITING: Final = 10_000
"""Operations that may wait for a batch; whoever comes then waits before joining, so that memory does not grow."""


class BatchedStorage(StorageWrapper):
    """
    Sends single operations in batches. `Sessions` puts it around its storage by itself.

    Writes of one key happen in the order in which they were issued, and a read sees those issued before it, even one
    whose caller was cancelled when it had left. An operation that waits gathers others for the rest of the loop's tick,
    never longer; one that is alone takes the way of a single operation, without waiting if the one before it was alone
    too. So it is with `write_then_read`: the first rounds of all, the second rounds, what they read.
    `has` and `touch` keep their place among the writes of their key; iteration and batches of the caller's own pass
    through.

    Args:
        inner: The storage to wrap.
        max_batch: The most operations to send at once. By default, what suits the storage.
        max_under_way: The most batches of reads, of writes, and of both, to have on their way; likewise.
        max_waiting: The most operations that may wait for a batch.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        max_batch: int | None = None,
        max_under_way: int | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        super().__init__(inner)
        root, _ = locate(inner, "")
        max_batch, max_under_way = max_batch or root.max_batch, max_under_way or root.max_under_way
        # Two batches under way may overtake each other: a key's next operation waits until its last write is over.
        self._writing = KeyLocks()
        limits = {"max_batch": max_batch, "max_under_way": max_under_way, "max_waiting": max_waiting}
        self._reads: _Lane[str, Record | None] = _Lane(inner.read, self._read_together, _nothing, **limits)
        self._writes: _Lane[Write, WriteResult] = _Lane(
            self._write_one, self._write_together, self._release_each, **limits
        )
        self._both: _Lane[_Both, WrittenAndRead] = _Lane(
            self._both_one, self._both_together, self._release_all, **limits
        )

    async def read(self, key: str) -> Record | None:
        # Checked here, so that a wrong key fails alone and not the batch that it would travel in.
        self._inner._validate("read", key)  # noqa: SLF001 - its own limits
        if key in self._writing:
            async with self._writing.holding(key):
                pass
        return await self._reads.send(key)

    async def has(self, key: str) -> bool:
        async with self._writing.holding(key):
            return await self._inner.has(key)

    async def touch(self, key: str, ttl: float | None) -> bool:
        async with self._writing.holding(key):
            return await self._inner.touch(key, ttl)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        self._inner._validate("write", key, value, ttl)  # noqa: SLF001
        write = Write(key, value, ttl, match)
        if not self._writing.try_acquire(key):
            await self._writing.acquire(key)
        return cast("Version", _successful(await self._writes.send(write)))

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        self._inner._validate("delete", key)  # noqa: SLF001
        await self._writing.acquire(key)
        return cast("bool", _successful(await self._writes.send(Write(key, None, None, match))))

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        for writes in rounds:
            self._inner._validate_writes("write_then_read", writes)  # noqa: SLF001
        self._inner._validate_keys("write_then_read", keys)  # noqa: SLF001
        both = rounds, keys
        await self._writing.acquire_all(_keys_of(both))
        return await self._both.send(both)

    async def _write_one(self, write: Write) -> WriteResult:
        if write.value is None:
            return await self._inner.delete(write.key, match=write.match)
        return await self._inner.write(write.key, write.value, ttl=write.ttl, match=write.match)

    def _release_each(self, writes: Iterable[Write]) -> None:
        for write in writes:
            self._writing.release(write.key)

    def _release_all(self, several: Iterable[_Both]) -> None:
        for both in several:
            self._writing.release_all(_keys_of(both))

    async def _read_together(self, keys: Sequence[str]) -> Sequence[Record | None]:
        found = await self._inner.read_many(keys)
        return [found.get(key) for key in keys]

    async def _write_together(self, writes: Sequence[Write]) -> Sequence[WriteResult]:
        return await self._inner.write_many(writes)

    async def _both_one(self, both: _Both) -> WrittenAndRead:
        return await self._inner.write_then_read(*both)

    async def _both_together(self, batch: Sequence[_Both]) -> Sequence[WrittenAndRead]:
        turns = list(zip_longest(*(rounds for rounds, _ in batch), fillvalue=()))
        results, found = await self._inner.write_then_read(
            [list(chain.from_iterable(turn)) for turn in turns], [key for _, keys in batch for key in keys]
        )
        remaining = iter(results)
        own: list[list[WriteResult]] = [[] for _ in batch]
        for turn in turns:
            for mine, writes in zip(own, turn, strict=True):
                mine.extend(islice(remaining, len(writes)))
        return [
            (mine, None if found is None else {key: found[key] for key in keys if key in found})
            for mine, (_, keys) in zip(own, batch, strict=True)
        ]


class _Lane(Generic[Q, R]):
    """
    A queue of operations of one kind, and the batches that are made of it.

    Args:
        one: Does a single operation.
        many: Does several, and returns their results in order.
        over: Is told of operations of which nothing is under way any more, of each once: it was done, it failed, or it
            was given up before it left. To give up later does not stop it.
        max_batch, max_under_way, max_waiting: As `BatchedStorage`.
    """

    def __init__(
        self,
        one: Callable[[Q], Awaitable[R]],
        many: Callable[[Sequence[Q]], Awaitable[Sequence[R]]],
        over: Callable[[Iterable[Q]], None],
        *,
        max_batch: int,
        max_under_way: int,
        max_waiting: int,
    ) -> None:
        self._one = one
        self._many = many
        self._over = over
        self._max_batch = max_batch
        self._max_under_way = max_under_way
        self._max_waiting = max_waiting
        self._waiting: list[tuple[Q, asyncio.Future[R]]] = []
        self._gathering = False
        self._under_way = 0
        self._lonely = False  # Whether the last operation met no other.
        self._outside = 0  # How many wait to join those who wait, in order.
        self._turns = asyncio.Semaphore(0)
        self._tasks: set[asyncio.Task[None]] = set()  # The loop itself would forget them.

    def send(self, operation: Q) -> Awaitable[R]:
        """Do an operation, together with others if there are any; as a rule, without a coroutine for it."""
        follows = self._gathering or self._under_way >= self._max_under_way  # Somebody else sees to it.
        if follows and not self._outside and len(self._waiting) < self._max_waiting:
            return self._wait(operation)
        return self._submit(operation)

    async def _submit(self, operation: Q) -> R:
        if self._lonely and not self._under_way:
            return await self._go_alone(operation)  # Where nobody came the last time, nobody is waited for.
        if self._outside or len(self._waiting) >= self._max_waiting:
            await self._wait_outside(operation)
        future = self._wait(operation)
        if self._gathering or self._under_way >= self._max_under_way:
            return await future
        # The first of this tick waits for the others, and then sees to all of them.
        entry = self._waiting[-1]
        self._gathering = True
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            future.cancel()
            if entry in self._waiting:  # If not, a batch that came back meanwhile has taken it along.
                self._waiting.remove(entry)
                self._over((operation,))
                self._let_in(1)
            raise
        finally:
            self._gathering = False
            alone = len(self._waiting) == 1 and self._waiting[0] is entry
            if not alone:
                self._depart()
        if not alone:
            return await future
        self._waiting.clear()
        self._let_in(1)
        self._lonely = not self._under_way
        return await self._go_alone(operation)

    def _wait(self, operation: Q) -> asyncio.Future[R]:
        self._lonely = False
        # Whoever waits already knows the loop. To ask for it is dear: each time Python 3.11 asks the system who we are.
        loop = self._waiting[0][1].get_loop() if self._waiting else asyncio.get_running_loop()
        future: asyncio.Future[R] = asyncio.Future(loop=loop)
        self._waiting.append((operation, future))
        return future

    async def _wait_outside(self, operation: Q) -> None:
        self._outside += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self._over((operation,))
            raise
        finally:
            self._outside -= 1

    def _let_in(self, places: int) -> None:
        """Let those outside join where places became free."""
        for _ in range(min(places, self._outside)):
            self._turns.release()

    async def _go_alone(self, operation: Q) -> R:
        """Without a task, a future or a list: nobody else's result hangs on this one's cancellation."""
        self._under_way += 1
        try:
            return await self._one(operation)
        finally:
            self._under_way -= 1
            self._over((operation,))
            self._depart()

    def _depart(self) -> None:
        """Send what waits, as far as there may be batches under way."""
        while self._waiting and self._under_way < self._max_under_way:
            size = len(self._waiting)
            if size >= WORTH_SPLITTING:
                size = math.ceil(size / (self._max_under_way - self._under_way))
            size = min(size, self._max_batch)
            first = self._waiting[:size]
            del self._waiting[:size]
            self._let_in(size)
            batch = [entry for entry in first if not entry[1].done()]  # Whoever was cancelled wants nothing any more.
            if len(batch) < size:
                self._over([operation for operation, future in first if future.done()])
            if batch:
                self._under_way += 1
                task = asyncio.get_running_loop().create_task(self._travel(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _travel(self, batch: list[tuple[Q, asyncio.Future[R]]]) -> None:
        operations = [operation for operation, _ in batch]
        try:
            results = await self._many(operations)
        except StorageError as error:
            if len(batch) == 1 or isinstance(error, UnavailableError):
                _fail(batch, error)
            else:
                # One of them is at fault, and nothing was written: let it fail alone.
                await self._separate(batch)
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            self._under_way -= 1
            self._over(operations)
            self._depart()

    async def _separate(self, batch: list[tuple[Q, asyncio.Future[R]]]) -> None:
        for operation, future in batch:
            if future.done():
                continue
            try:
                result = await self._one(operation)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
                _fail([(operation, future)], error)
            else:
                if not future.done():
                    future.set_result(result)


def _nothing(_: object) -> None:
    """Reads keep no key from others."""


def _keys_of(both: _Both) -> Iterator[str]:
    rounds, keys = both
    return chain(keys, (write.key for writes in rounds for write in writes))


def _successful(result: WriteResult) -> Version | bool:
    if isinstance(result, StorageError):
        raise result
    return result


def _fail(batch: list[tuple[Q, asyncio.Future[R]]], error: BaseException) -> None:
    """Give everybody the error: to each their own."""
    for _, future in batch:
        if not future.done():
            future.set_exception(error.copy() if isinstance(error, StorageError) else error)
