"""
The storage adapter interface.

A storage maps *keys* to *documents*. A key is text; a document is JSON text. Four methods are required, the rest have
defaults that are correct, if slower. `bot_session.memory.MemoryStorage` is the reference to read beside this file, and
`bot_session.testing.StorageContract` the suite that every adapter passes.

Rules that hold for every method of every storage:

- **Expired is absent**, at once and for every method. Whether the space is freed by the backend or by `Storage.purge`
  is the adapter's affair.
- **An error is never a miss.** What the driver raises comes out as a `StorageError`, with the driver's error as cause.
- **Only ours.** Nothing that somebody else keeps in the same database is read, changed or deleted.
- **What you did not open you do not close**: an injected client stays open.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NewType, TypeAlias, TypeVar, cast

import msgspec

from .errors import ClosedError, ConflictError, InvalidKeyError, StorageError, UnavailableError, ValueTooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

__all__ = [
    "ABSENT",
    "ANY",
    "MAX_TTL",
    "PRESENT",
    "Capabilities",
    "Condition",
    "Match",
    "Record",
    "Storage",
    "Version",
    "Write",
    "WriteResult",
    "WrittenAndRead",
    "conflicts_only",
    "distinct_rounds",
    "holds",
    "part_of_batch",
    "portions",
]

T = TypeVar("T")

Version = NewType("Version", str)
"""
What a document is recognised by when it is written again: opaque, and the adapter's own.

A backend that keeps versions (an ETag, a generation) uses them; one that does not uses the document itself, which needs
no extra column and leaves other programs' layouts alone. Never print it: it may be somebody's data.
"""


class Condition(enum.Enum):
    """The conditions for a write that name no version."""

    ANY = "any"
    ABSENT = "absent"
    PRESENT = "present"

    def __repr__(self) -> str:
        return self.name


ANY: Final = Condition.ANY
"""Write whatever is stored."""
ABSENT: Final = Condition.ABSENT
"""Write only if nothing is stored: of several writers one wins."""
PRESENT: Final = Condition.PRESENT
"""Write only if something is stored: nothing that was deleted comes back."""

Match: TypeAlias = Condition | Version
"""`ANY`, `ABSENT`, `PRESENT`, or the `Version` that was read."""

_NO_DOCUMENT: Final = ""
"""In place of a document, where only a key is to be looked at."""

MAX_TTL: Final = 100 * 365.25 * 86_400.0
"""A hundred years, in seconds. Longer means for ever, which is None."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """
    A document as it was read.

    Attributes:
        value: The document, JSON text.
        version: Pass it as ``match`` to write only if nobody else wrote in between.
        ttl: Seconds it has left, by the backend's clock; None if it lives for ever.
    """

    value: str
    version: Version
    ttl: float | None = None

    @property
    def lasting(self) -> float | None:
        """The TTL with which to write it again: rounded up by a backend, ``ttl`` may be a little above `MAX_TTL`."""
        return None if self.ttl is None else min(self.ttl, MAX_TTL)

    def __repr__(self) -> str:
        # Documents are users' data, and a repr ends in logs.
        return f"Record({len(self.value)} characters, ttl={self.ttl})"


class Write(msgspec.Struct, frozen=True, gc=False):
    """
    One operation of `Storage.write_many`: a write, or with ``value=None`` a delete.

    Attributes:
        key: The key.
        value: The document; None deletes.
        ttl: Seconds to live; None is for ever.
        match: The condition, as in `Storage.write` and `Storage.delete`.
    """

    key: str
    value: str | None
    ttl: float | None = None
    match: Match = ANY

    def __repr__(self) -> str:
        what = "delete" if self.value is None else f"{len(self.value)} characters"
        return f"Write({self.key!r}, {what}, ttl={self.ttl})"


WriteResult: TypeAlias = Version | bool | StorageError
"""
A write gives its new version, a delete whether there was anything, and what failed alone its error: a `ConflictError`
for a match, another for what the backend refused. An outage is the whole batch's; an `UnavailableError` stands only for
a write that certainly did not happen while others did, for instance since somebody else kept a lock that it needed.
"""

WrittenAndRead: TypeAlias = tuple[list[WriteResult], dict[str, Record] | None]
"""What `Storage.write_then_read` returns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """
    What a storage can do: declared by its adapter, verified by the contract suite.

    Attributes:
        shared: Other processes see what is written.
        durable: A write that returned survives a crash of the process, and of the backend as it was set up.
        native_expiry: Expired documents leave the backend by themselves; otherwise call `Storage.purge`.
        ttl_resolution: The smallest step of a TTL, in seconds; TTLs are rounded up to it.
        atomic_batches: `Storage.write_many` happens as a whole or not at all, if no match fails.
        max_key_bytes: Longest key, in bytes of UTF-8; None if there is no limit below 1 MiB.
        max_value_bytes: Longest document, in bytes of UTF-8; None if there is no limit below 1 GiB.
    """

    shared: bool
    durable: bool
    native_expiry: bool
    ttl_resolution: float
    atomic_batches: bool
    max_key_bytes: int | None = None
    max_value_bytes: int | None = None


class _Turns:
    """
    Who opens or closes a storage does it one after the other.

    Attributes:
        loop: The event loop of all who do.
        lock: Held by whoever does it.
        failed: How the last attempt to open failed; being closed meanwhile is such a failure.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lock = asyncio.Lock()
        self.failed: StorageError | None = None


class Storage(ABC):
    """
    Keeps documents by key.

    It opens itself at first use, once, however many tasks come at the same time; `open` does it earlier, to fail early.
    It is an asynchronous context manager that opens and closes.
    """

    capabilities: Capabilities
    """What this storage can do: declared by the class, or by an instance that can less."""

    driver_query: ClassVar[bool] = False
    """Whether the options of a URL that are none of `from_url`'s own belong to the driver. If not, they are errors."""

    max_batch: ClassVar[int] = 64
    """
    How many operations `BatchedStorage` sends to it at once. More make all in the batch wait, and the objects of so many
    updates that go on together wake Python's garbage collector.
    """

    max_under_way: ClassVar[int] = 2
    """How many such batches are on their way at a time: as one is handled by the backend, the next is being sent."""

    _has_own_limits: bool = True
    """Whether `_validate_own` is overridden; an instance may know that it has no such limits."""

    _state: Literal["new", "open", "closed"] = "new"
    _open_turns: _Turns | None = None
    _unreleased = False  # Whether it is closed, and what `_open` made is still there.
    _desk: Any = None  # What all `Sessions` on it share.

    # ------------------------------------------------------------------ required

    @abstractmethod
    async def read(self, key: str) -> Record | None:
        """
        Return what is stored under ``key``, None if there is nothing or it has expired.

        Raises:
            InvalidKeyError: No storage, or not this one, can hold such a key.
            StorageError: The storage could not tell. Never taken for "nothing".
        """

    @abstractmethod
    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        """
        Store a document, replacing what was there together with its TTL.

        Args:
            key: The key.
            value: The document: JSON text.
            ttl: Seconds to live from now, by the backend's clock; None is for ever. At most `MAX_TTL`.
            match: Write only if the condition holds, checked and written in one atomic step. An expired document
                counts as absent. A version matches only while something is stored: it never brings back what was
                deleted.

        Returns:
            The version of what is now stored.

        Raises:
            ConflictError: The condition does not hold; nothing was written.
            InvalidKeyError: No storage, or not this one, can hold such a key.
            ValueTooLargeError: The document is longer than the storage allows.
            ValueError: ``ttl`` is zero, negative, NaN, infinite, a bool or more than `MAX_TTL`.
            UnavailableError: The backend did not answer; ``outcome_unknown`` says whether the write may have happened.
            StorageError: Anything else that went wrong.
        """

    @abstractmethod
    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        """
        Remove a document. It is no error if there is none and ``match`` allows that.

        Returns:
            Whether there was a document; an expired one counts as none.

        Raises:
            ConflictError: The condition does not hold: another version, nothing to match, something under `ABSENT`.
            StorageError: As for `write`.
        """

    @abstractmethod
    def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        """
        Stream the keys that start with ``prefix``, in no particular order.

        A key that lives throughout comes exactly once; one that appears or vanishes meanwhile may or may not come; an
        expired one never. Memory does not grow with the number of documents, as far as the backend allows.

        Args:
            prefix: Literal text, never a pattern.
            batch_size: How many keys to fetch in a round trip.

        Raises:
            InvalidKeyError: No key can start with ``prefix``.
            ValueError: ``batch_size`` is less than 1.
            StorageError: While iterating; the loop never just ends early.
        """

    # ------------------------------------------------------------------ correct by default, better when overridden

    async def has(self, key: str) -> bool:
        """Return whether something that has not expired is stored under ``key``. Raises as `read` does."""
        return await self.read(key) is not None

    async def touch(self, key: str, ttl: float | None) -> bool:
        """
        Give a document a new TTL, leaving the document as it is.

        Args:
            key: The key.
            ttl: Seconds to live from now; None is for ever.

        Returns:
            Whether there was a document. A missing or expired one stays missing.

        Raises:
            ValueError: As for `write`.
            StorageError: As for `write`.
        """
        while (record := await self.read(key)) is not None:
            try:
                await self.write(key, record.value, ttl=ttl, match=record.version)
            except ConflictError:
                continue
            return True
        self._validate("touch", key, ttl=ttl)
        return False

    async def read_all_values(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        """Stream the documents whose keys start with ``prefix``; the rest as in `read_all_keys`."""
        async for _, record in self.read_all_entries(prefix, batch_size=batch_size):
            yield record.value

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        """Stream ``(key, record)`` for the keys that start with ``prefix``; the rest as in `read_all_keys`."""
        batch: list[str] = []
        async for key in self.read_all_keys(prefix, batch_size=batch_size):
            batch.append(key)
            if len(batch) >= batch_size:
                for entry in (await self.read_many(batch)).items():
                    yield entry
                batch.clear()
        for entry in (await self.read_many(batch)).items():
            yield entry

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        """
        Read several keys.

        Returns:
            A record for every key under which something is stored; the others are left out. No keys, no records.

        Raises:
            StorageError: As for `read`; then nothing is returned.
        """
        found: dict[str, Record] = {}
        for key in dict.fromkeys(keys):
            if (record := await self.read(key)) is not None:
                found[key] = record
        return found

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        """
        Write and delete several documents; those of one key in the order given.

        A failed match fails alone. It is a transaction only where `Capabilities.atomic_batches` says so.

        Returns:
            A result for each operation, in the order given; of one that failed alone, its error. Of nothing, nothing.

        Raises:
            UnavailableError: As for `write`; ``outcome_unknown`` says whether some of them may have been written.
            InvalidKeyError, ValueTooLargeError, ValueError: One of them is wrong. Then nothing was written.
            StorageError: Anything else that went wrong. Then nothing was written.
        """
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        results: list[WriteResult] = []
        for write in writes:
            try:
                with part_of_batch(results):
                    if write.value is None:
                        results.append(await self.delete(write.key, match=write.match))
                    else:
                        results.append(await self.write(write.key, write.value, ttl=write.ttl, match=write.match))
            except UnavailableError:
                raise
            except StorageError as error:
                results.append(error)
        return results

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        """
        Write several batches one after the other, and then read: in one round trip where the backend can.

        Nobody sees anything of a round without all of those before it; within a round it is as `write_many`.

        Args:
            rounds: The batches, in order.
            keys: What to read afterwards; perhaps nothing.

        Returns:
            A result for each operation, in the order given; and what `read_many` returns. What fails after the first
            round does not put the earlier ones in doubt: the error, here perhaps an `UnavailableError`, is the result
            of all operations from then on, and None is in place of what was read. Whoever reads again is told why.

        Raises:
            StorageError: As for `write_many`, and then of the first round.
        """
        for writes in rounds:
            self._validate_writes("write_then_read", writes)
        self._validate_keys("write_then_read", keys)
        if self.capabilities.atomic_batches:  # In a transaction all rounds are seen at once.
            rounds = [[write for writes in rounds for write in writes]]
        results: list[WriteResult] = []
        try:
            for writes in rounds:
                # One alone takes the way of a single operation.
                results += await (Storage.write_many(self, writes) if len(writes) == 1 else self.write_many(writes))
            return results, await self.read_many(keys) if keys else {}
        except StorageError as error:
            if not results:
                raise
            return results + [error] * (sum(map(len, rounds)) - len(results)), None

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete several keys and return how many there were. Raises as `write_many` does."""
        results = await self.write_many([Write(key, None) for key in dict.fromkeys(keys)])
        return sum(result is True for result in conflicts_only(results))

    async def purge(self) -> int:
        """
        Free the space of expired documents and return how many there were.

        Safe at any time, from several processes at once. Does nothing where the backend does it by itself.

        Raises:
            StorageError: As for `write`.
        """
        if self._state != "open":
            await self._ready("purge")
        return 0

    async def check(self) -> None:
        """
        Make a round trip to the backend: for health checks, and for failing at start.

        Raises:
            StorageError: The storage cannot be used now.
        """
        await self.has("bot-session:check")

    def ddl(self) -> str:
        """Return the statements that create what this storage needs in a database; empty if it needs nothing."""
        return ""

    # ------------------------------------------------------------------ life

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Make a storage from a URL without connecting yet: what `bot_session.open_storage` calls.

        An override names its options as keyword-only parameters. Their annotations (``str``, ``int``, ``float``,
        ``bool``, each perhaps ``| None``, or a ``Literal``) type the options of the URL's query, which are taken out of
        ``url`` before it arrives here. With ``**options`` it takes the keyword-only parameters of the constructor too,
        as far as they have such types.

        Raises:
            ConfigurationError: The URL is wrong.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be made from a URL")

    async def open(self) -> None:
        """
        Connect and create what is missing. Done once; called again, it does nothing, unless closed in between.

        Whoever comes while it is being done waits for the same attempt, and is told if it fails.

        Raises:
            UnavailableError: The backend does not answer.
            SchemaError: What is needed is missing and may not be created, or is of the wrong form.
            ClosedError: It was closed meanwhile.
        """
        turns = self._turns_here()
        failed_before = turns.failed
        async with turns.lock:
            if self._state == "open":
                return
            if turns.failed is not failed_before and turns.failed is not None:
                raise turns.failed.copy()
            await self._attempt_to_open(turns)

    async def _attempt_to_open(self, turns: _Turns) -> None:
        """Open it, whose turn it is; what is closed meanwhile stays closed."""
        failed_before = turns.failed
        await self._release()
        try:
            await self._open()
        except StorageError as error:
            turns.failed = error.copy()
            raise
        if turns.failed is not failed_before:
            self._unreleased = True
            await self._release()
            raise self._closed("open")
        self._state, turns.failed = "open", None

    async def close(self) -> None:
        """
        Release what `open` acquired; an injected client stays open. Done once; called again, it does nothing.

        Afterwards every other method raises `ClosedError` until `open` is called. An opening that is under way comes to
        its end before, in vain.
        """
        self._unreleased = self._unreleased or self._state == "open"
        self._state = "closed"
        turns = self._turns_here()
        turns.failed = self._closed("open")
        async with turns.lock:
            await self._release()

    def _turns_here(self) -> _Turns:
        """The turns of the event loop that runs: a lock that somebody waited for belongs to its loop."""
        loop = asyncio.get_running_loop()
        if self._open_turns is None or self._open_turns.loop is not loop:
            self._open_turns = _Turns(loop)
        return self._open_turns

    async def _release(self) -> None:
        """Close what is left from before; whoever closed it may have been cancelled before it was their turn."""
        if self._unreleased:
            self._unreleased = False
            await self._close()

    async def _open(self) -> None:  # noqa: B027
        """Connect and create what is missing: for adapters. Never runs twice at once, nor together with `_close`."""

    async def _close(self) -> None:  # noqa: B027
        """Close what `_open` made: for adapters."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------ for adapters

    async def _ready(self, operation: str, key: str | None = None) -> None:
        """Open at first use. Adapters write ``if self._state != "open": await self._ready("read", key)``."""
        if self._state == "closed":
            raise self._closed(operation, key)
        await self.open()

    def _closed(self, operation: str, key: str | None = None) -> ClosedError:
        problem = "the storage is closed; `await storage.open()` opens it again"
        return ClosedError(problem, operation=operation, key=key, storage=self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._has_own_limits = cls._validate_own is not Storage._validate_own

    def _validate(self, operation: str, key: str, value: str = _NO_DOCUMENT, ttl: float | None = None) -> None:
        """
        Refuse what no storage takes, and what is beyond this one's limits, alike everywhere.

        Raises:
            InvalidKeyError: The key is no text, holds NUL or a lone surrogate, or is too long.
            ValueTooLargeError: The document is too long.
            ValueError: The TTL is not a number of seconds above 0 and up to `MAX_TTL`.
            TypeError: The document is no text.
        """
        limits = self.capabilities
        longest = limits.max_key_bytes
        # Most keys are good, which these few steps tell.
        if type(key) is not str or not key.isascii() or "\0" in key or (longest is not None and len(key) > longest):
            problem = key_problem(key, longest)
            if problem:
                raise InvalidKeyError(problem, operation=operation, key=str(key), storage=self)
        if ttl is not None and not is_ttl(ttl):
            raise ValueError(f"ttl must be seconds above 0 and up to a hundred years, or None for ever; not {ttl!r}")
        if value is not _NO_DOCUMENT:
            if not isinstance(value, str):
                raise TypeError(f"a document is JSON text, not {type(value).__name__}")
            limit = limits.max_value_bytes
            # A character takes at most four bytes, so most documents need no encoding to be known as short enough.
            if limit is not None and len(value) * 4 > limit and (size := len(value.encode())) > limit:
                problem = f"the document has {size:,} bytes, the limit is {limit:,}"
                raise ValueTooLargeError(problem, operation=operation, key=key, storage=self)
        if self._has_own_limits:
            self._validate_own(operation, key, value, ttl)

    def _validate_own(self, operation: str, key: str, value: str, ttl: float | None) -> None:  # noqa: B027
        """
        Refuse what is beyond limits that `Capabilities` has no words for: for adapters.

        Args:
            operation: The method that was called.
            key: The key; with the rest, good as far as `_validate` can tell.
            value: The document; empty where there is none.
            ttl: Seconds to live.

        Raises:
            StorageError: It is beyond them.
        """

    def _validate_keys(self, operation: str, keys: Collection[str]) -> None:
        """`_validate` for several keys: one look at all of them tells, as a rule, that all are good."""
        longest = self.capabilities.max_key_bytes
        try:
            together = "".join(keys)
        except TypeError:
            together = "\0"  # Something there is no text.
        beyond = longest is not None and len(together) > longest and max(map(len, keys)) > longest
        if beyond or "\0" in together or not together.isascii() or self._has_own_limits:
            for key in keys:
                self._validate(operation, key)

    def _validate_writes(self, operation: str, writes: Collection[Write]) -> None:
        """`_validate` for a whole batch, before any of it is sent: what is not good at a glance is looked at closely."""
        self._validate_keys(operation, [write.key for write in writes])
        limit = self.capabilities.max_value_bytes
        for write in writes:
            value: object = write.value
            if value is None and write.ttl is None:
                continue
            short = isinstance(value, str) and (limit is None or len(value) * 4 <= limit)
            if write.ttl is not None or not short or self._has_own_limits:
                self._validate(operation, write.key, _NO_DOCUMENT if write.value is None else write.value, write.ttl)

    def _validate_listing(self, operation: str, prefix: str, batch_size: int) -> None:
        """`_validate` for the arguments of the iterating methods."""
        self._validate(operation, prefix)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")

    def _conflict(self, operation: str, key: str, match: Match, actual: Version | None = None) -> ConflictError:
        """The error for a match that failed, in the same words everywhere."""
        reason = "it was changed or deleted since it was read"
        if match is ABSENT:
            reason = "something is stored already"
        elif match is PRESENT:
            reason = "nothing is stored"
        return ConflictError(reason, operation=operation, key=key, storage=self, expected=match, actual=actual)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def is_ttl(ttl: object) -> bool:
    """Whether it is a TTL: a number of seconds above 0 and up to `MAX_TTL`."""
    return isinstance(ttl, (int, float)) and not isinstance(ttl, bool) and 0 < ttl <= MAX_TTL


def key_problem(key: object, max_bytes: int | None) -> str | None:
    """Say what is wrong with a key; None if nothing is."""
    if not isinstance(key, str):
        return f"a key is text, not {type(key).__name__}"
    if "\0" in key:
        return "a key cannot hold NUL"
    if key.isascii():
        size = len(key)
    else:
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            return "a key cannot hold half a character (a lone surrogate)"
    if max_bytes is not None and size > max_bytes:
        return f"the key has {size:,} bytes, the limit is {max_bytes:,}"
    return None


def holds(match: Match, record: Record | None) -> bool:
    """Return whether a condition holds for what is stored: what has expired is None."""
    if match is ANY:
        return True
    if match is ABSENT:
        return record is None
    return record is not None and (match is PRESENT or record.version == match)


def conflicts_only(results: Sequence[WriteResult]) -> Sequence[Version | bool | ConflictError]:
    """Return the results of a batch; if one of them is an error other than a conflict, raise it."""
    for result in results:
        if isinstance(result, StorageError) and not isinstance(result, ConflictError):
            raise result
    return cast("Sequence[Version | bool | ConflictError]", results)


@contextmanager
def part_of_batch(done: object) -> Iterator[None]:
    """
    Send a part of a batch in the body: for adapters whose batches travel in several parts.

    If ``done`` is true, other parts have been sent before, and an outage leaves the outcome of the batch unknown.
    """
    try:
        yield
    except UnavailableError as error:
        error.outcome_unknown = error.outcome_unknown or bool(done)
        raise


def distinct_rounds(writes: Sequence[Write]) -> Iterator[list[tuple[int, Write]]]:
    """
    Split a batch into rounds that hold each key once, keeping the order of each key's writes.

    For backends whose one statement for many rows cannot touch a row twice. Yields lists of (position, write).
    """
    if len({write.key for write in writes}) == len(writes):  # As a rule they are distinct already.
        return iter([list(enumerate(writes))] if writes else [])
    rounds: list[list[tuple[int, Write]]] = []
    seen: dict[str, int] = {}
    for position, write in enumerate(writes):
        turn = seen.get(write.key, 0)
        seen[write.key] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append((position, write))
    return iter(rounds)


def portions(items: Iterable[T], size_of: Callable[[T], int], *, most: int, longest: int) -> Iterator[list[T]]:
    """
    Split a batch into portions, in order: for backends that take only so much at a time.

    Args:
        items: What is to travel.
        size_of: How long one of them is.
        most: How many of them a portion has at most.
        longest: How long a portion is at most, unless one of them alone is longer.
    """
    portion: list[T] = []
    length = 0
    for item in items:
        size = size_of(item)
        if portion and (len(portion) == most or length + size > longest):
            yield portion
            portion, length = [], 0
        portion.append(item)
        length += size
    if portion:
        yield portion
