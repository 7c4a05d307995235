"""
Sessions: session data is loaded before the handler, handed to it, and saved after it.

>>> import asyncio
>>> from dataclasses import dataclass
>>> from bot_session import MemoryStorage, Sessions
>>> @dataclass
... class Pizza:
...     count: int = 0
>>> sessions = Sessions(MemoryStorage(), initial=Pizza)
>>> async def handle(chat: str) -> int:
...     async with sessions.open(chat) as session:
...         session.data.count += 1
...         return session.data.count
>>> asyncio.run(handle("42")), asyncio.run(handle("42"))
(1, 2)
"""

from __future__ import annotations

import inspect
import math
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, cast, overload

import msgspec

from .batching import BatchedStorage
from .desk import Desk
from .documents import ATTEMPTS, Documents, back_off
from .errors import CodecError, ConfigurationError, ConflictError, InvalidKeyError, LockTimeoutError
from .keys import by_chat, key_of
from .leases import LEASE_PREFIX, Lease, is_lease
from .session import KeylessSession, LazySession, Session
from .storage import ABSENT, ANY, Storage, is_ttl, key_problem
from .wrappers import RetryingStorage, locate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from decimal import Decimal
    from types import TracebackType
    from typing import Unpack

    from .codec import Codec
    from .keys import KeyFunction
    from .merging import ConflictPolicy
    from .migrations import Migration
    from .sealing import Seal
    from .storage import Match, Record

__all__ = ["Opening", "Sessions", "SessionsOptions"]

T = TypeVar("T")
S_co = TypeVar("S_co", bound=Session[Any], covariant=True)

ControlFlow = tuple[type[BaseException], ...]


class Opening(msgspec.Struct, Generic[S_co], eq=False):
    """An asynchronous context manager that gives a session: what `Sessions.open` returns."""

    _kind: type[S_co]
    _sessions: Sessions[Any]
    _key: str
    _context: object
    _passthrough: ControlFlow
    _session: Any = None  # Then an `S_co`.

    async def __aenter__(self) -> S_co:
        sessions = self._sessions
        session: Any = sessions.desk.take(self._kind, sessions, self._key, self._context)
        self._session = session
        try:
            if self._kind is Session:
                await (session.fill() if session.depth == 1 else session.load())
        except BaseException:
            await session.finish(save=False)
            raise
        opened: S_co = session
        return opened

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        session: Session[Any] = self._session
        return session.finish(save=error is None or isinstance(error, self._passthrough))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key!r}>"  # The context is a whole update, which is none of a log's business.


class NoOpening:
    """In place of an `Opening` for an update that has no session key."""

    __slots__ = ("_session",)

    def __init__(self, reason: str) -> None:
        self._session: Session[Any] = KeylessSession(reason)

    async def __aenter__(self) -> Session[Any]:
        return self._session

    async def __aexit__(self, *_: object) -> None:
        return None


class SessionsOptions(TypedDict, Generic[T], total=False):
    """
    The options of `Sessions`.

    Attributes:
        key: Says whose session an update touches; used by the frameworks' hooks. Default: `by_chat`.
        prefix: Stands before every key, so that several kinds of session can share a storage. Default: nothing.
        ttl: Seconds, or a `timedelta`, that a session lives after its last change. Default: None, for ever.
        renew: ``"change"`` (the default), or ``"use"`` to renew the TTL also when the data was only looked at, once a
            tenth of it has passed.
        migrations: ``{version: function}``: see `bot_session.migrations`.
        save: ``"changed"`` (the default), or ``"accessed"`` to write whatever was looked at, initial data too, as
            grammY does.
        on_conflict: What to do if another process saved the session meanwhile: see `ConflictPolicy`.
        lock: ``"process"`` (the default): updates of one session are handled one at a time in this process, and a write
            that meets another process's is a conflict. ``"shared"``: one at a time in all processes, by a lease in the
            storage, taken with the read and given back with the write where the backend can do both in one round trip;
            for handlers that do more than change their session.
        lock_timeout: Seconds to wait at most for other updates of the same session in this process, and then, with
            ``lock="shared"``, in others; None is for ever. Default: 300.
        lease_ttl: With ``lock="shared"``: seconds that a session stays locked if its process is killed. Default: 10.
        codec: In place of one made from the type.
        seal: How documents are compressed and encrypted: see `Seal`. Default: not at all.
        batching: Whether operations in flight together travel together: see `BatchedStorage`. Default: True.
        retrying: Whether what is safe to repeat is tried again for a moment: see `RetryingStorage`. Default: True.
    """

    key: KeyFunction
    prefix: str
    ttl: float | timedelta | None
    renew: Literal["change", "use"]
    migrations: Mapping[int, Migration] | Mapping[float, Migration] | Mapping[Decimal, Migration] | None
    save: Literal["changed", "accessed"]
    on_conflict: ConflictPolicy[T]
    lock: Literal["process", "shared"]
    lock_timeout: float | None
    lease_ttl: float
    codec: Codec[T] | None
    seal: Seal | None
    batching: bool
    retrying: bool


class Sessions(Generic[T]):
    """
    One kind of session: where it is kept, what its data is, and how it begins.

    Args:
        storage: Where sessions are kept.
        initial: Makes the data of a session that is not stored: a class, a function or an async function. If it has a
            parameter without default, it is given the context, which is the update's `Origin` in a framework's hook.
            What it makes is stored once it is changed. Without it, the data of a new session is None.
        type: What the data is, where ``initial`` does not tell: ``type=dict[str, int]``.
        options: The rest: see `SessionsOptions`.

    Raises:
        ConfigurationError: An option is wrong.
    """

    @overload
    def __init__(
        self, storage: Storage, *, initial: Callable[..., Awaitable[T]], **options: Unpack[SessionsOptions[T]]
    ) -> None: ...
    @overload
    def __init__(
        self, storage: Storage, *, initial: Callable[..., T], **options: Unpack[SessionsOptions[T]]
    ) -> None: ...
    @overload
    def __init__(
        self,
        storage: Storage,
        *,
        type: type[T],
        initial: Callable[..., Any] | None = None,
        **options: Unpack[SessionsOptions[T]],
    ) -> None: ...
    @overload
    def __init__(self: Sessions[Any], storage: Storage, **options: Unpack[SessionsOptions[Any]]) -> None: ...
    def __init__(
        self,
        storage: Storage,
        *,
        initial: Callable[..., Any] | None = None,
        type: Any = None,  # noqa: A002 - the word for it
        key: KeyFunction = by_chat,
        prefix: str = "",
        ttl: float | timedelta | None = None,
        renew: Literal["change", "use"] = "change",
        migrations: Mapping[Any, Migration] | None = None,
        save: Literal["changed", "accessed"] = "changed",
        on_conflict: ConflictPolicy[T] = "merge",
        lock: Literal["process", "shared"] = "process",
        lock_timeout: float | None = 300.0,
        lease_ttl: float = 10.0,
        codec: Codec[T] | None = None,
        seal: Seal | None = None,
        batching: bool = True,
        retrying: bool = True,
    ) -> None:
        if not isinstance(storage, Storage):
            raise ConfigurationError(f"storage must be a Storage, as open_storage(url) makes, not {storage!r}")
        _expect("renew", renew, "change", "use")
        _expect("save", save, "changed", "accessed")
        _expect("lock", lock, "process", "shared")
        if is_lease(prefix):
            raise ConfigurationError(f"prefix must not hold {LEASE_PREFIX!r}, by which leases are known")
        if lock == "shared" and not storage.capabilities.shared:
            raise ConfigurationError(f'lock="shared" is for storages that processes share, and {storage!r} is none')
        if not callable(on_conflict):
            _expect("on_conflict", on_conflict, "merge", "raise", "overwrite")
        _expect_seconds("lease_ttl", lease_ttl)
        if lock_timeout is not None:
            _expect_seconds("lock_timeout", lock_timeout)
        self.storage = storage
        self.key = key
        self.prefix = prefix
        self.renew = renew
        self.save = save
        self.lock = lock
        self.lock_timeout = lock_timeout
        self._lease_ttl = lease_ttl
        self.documents: Documents[T] = Documents(
            _outfitted(storage, batching=batching, retrying=retrying),
            initial=initial,
            codec=codec,
            data_type=type,
            migrations=migrations,
            ttl=_seconds(ttl),
            on_conflict=on_conflict,
            seal=seal,
        )
        self.desk = Desk(*locate(storage, ""), lock_timeout)

    def place(self, key: str) -> str:
        """
        Return the key that a session has in `storage`.

        Raises:
            InvalidKeyError: It is no text, or would be taken for the lease of another session.
        """
        try:
            place = self.prefix + key
        except TypeError:
            raise InvalidKeyError(f"{key_problem(key, None)}: write str(...)", key=str(key)) from None
        if LEASE_PREFIX in place:
            raise InvalidKeyError(
                f"no session's key holds {LEASE_PREFIX!r}, by which leases are known", key=place, storage=self.storage
            )
        return place

    def lease(self, key: str) -> Lease:
        """Return a lease for a session, not yet acquired: what ``lock="shared"`` is made of."""
        return Lease(self.documents.storage, self.place(key), self._lease_ttl)

    @asynccontextmanager
    async def _holding(self, *keys: str) -> AsyncIterator[list[Lease]]:
        """Keep others from these sessions, as an open session does: with the leases that it takes, if any."""
        leases: list[Lease] = []
        async with self.desk.holding(*map(self.place, keys)), AsyncExitStack() as stack:
            if self.lock == "shared":
                for key in sorted(set(keys)):
                    lease = self.lease(key)
                    await lease.acquire(self.lock_timeout)
                    stack.push_async_callback(lease.release)
                    leases.append(lease)
            yield leases

    # ------------------------------------------------------------------ one session

    @overload
    def open(
        self, key: str, *, lazy: Literal[False] = False, context: object = None, passthrough: ControlFlow = ()
    ) -> Opening[Session[T]]: ...
    @overload
    def open(
        self, key: str, *, lazy: Literal[True], context: object = None, passthrough: ControlFlow = ()
    ) -> Opening[LazySession[T]]: ...
    @overload
    def open(
        self, key: str, *, lazy: bool, context: object = None, passthrough: ControlFlow = ()
    ) -> Opening[Session[T]]: ...
    def open(
        self, key: str, *, lazy: bool = False, context: object = None, passthrough: ControlFlow = ()
    ) -> Opening[Any]:
        """
        Open the session of a key: ``async with sessions.open("42") as session: ...``.

        One update of a key at a time, in the order in which they came; other keys do not wait. Opened again within the
        same task it gives the same session, which the outermost saves. When the body raises or is cancelled, nothing is
        written.

        Args:
            key: Whose session.
            lazy: Read only when asked for: see `LazySession`.
            context: Given to an ``initial`` that wants an argument.
            passthrough: Exceptions that are a framework's control flow, not failures: the session is saved anyway.

        Raises:
            BotSessionError: As `Session.get` when entered, as `Session.save` when left.
        """
        return Opening(LazySession if lazy else Session, self, key, context, passthrough)

    async def open_for(
        self, origin: Any, *, key: KeyFunction | None = None, lazy: bool = False, passthrough: ControlFlow = ()
    ) -> Opening[Session[T]] | NoOpening:
        """
        Find out whose session an update touches, and open it: what the frameworks' hooks call.

        An update without a key gets a session that raises `SessionKeyError` when it is touched.

        Args:
            origin: What the key function is given, and ``initial`` too.
            key: In place of this object's own key function.
            lazy: As `open`.
            passthrough: As `open`.

        Returns:
            What `open` returns, or something that gives such a session.

        Raises:
            SessionKeyError: The key function returned something that is no key.
        """
        function = key or self.key
        found = await key_of(function, origin)
        if found is not None:
            return self.open(found, lazy=lazy, context=origin, passthrough=passthrough)
        name = getattr(function, "__name__", type(function).__name__)
        return NoOpening(f"this update has no session: the key function {name} returned None for it")

    async def read(self, key: str) -> T | None:
        """
        Return the data of a session without opening it; None if there is none.

        Raises:
            StorageError: The storage could not be read.
            DecodeError, MigrationError: What is stored is not what the code expects.
        """
        data: T | None = (await self.documents.load(self.place(key))).data
        return data

    async def has(self, key: str) -> bool:
        """Return whether there is a session. Raises as `read` does."""
        return (await self.documents.load(self.place(key))).found

    async def delete(self, key: str) -> bool:
        """
        Delete a session, after the updates of it that came before; within one that is open in this task, at once.

        Returns:
            Whether there was one.

        Raises:
            ConfigurationError: It is open in this task as a session of another kind.
            LockTimeoutError: Another update kept it for too long.
            StorageError: The storage could not do it.
        """
        mine = self.desk.mine(self, key)
        if mine is None:
            async with self._holding(key):
                return await self.documents.storage.delete(self.place(key))
        existed = await self.documents.storage.has(self.place(key))
        mine.data = None
        await mine.save()
        return existed

    async def update(self, key: str, change: Callable[[T], T | Awaitable[T | None] | None]) -> T:
        """
        Change a session by a function that is run again until nobody came in between.

        Args:
            key: Whose session.
            change: Takes the data and changes it in place, or returns what replaces it; may be async. Since it may run
                several times it should do nothing besides.

        Returns:
            The data as it was stored, or as it was if nothing changed, when nothing is written; within a session of
            this key that is open in this task, as that session will store it.

        Raises:
            ConfigurationError: It is open in this task as a session of another kind.
            ConflictError: Others came first every time.
            LockTimeoutError: Another update kept it for too long; or it is called by the function of an `update` of the
                same session, which it would wait for.
            BotSessionError: As `Session.get` and `Session.save`.
        """
        mine = self.desk.mine(self, key)
        if mine is not None:
            mine.data = await _apply(change, await mine.get())
            return mine.data
        documents, place = self.documents, self.place(key)
        async with self._holding(key) as leases:
            for attempt in range(ATTEMPTS):
                # Its first attempt takes the lease along; after that, somebody writes without, and it is of no use.
                lease = leases.pop() if leases else None
                loaded = await documents.load(place, lease)
                data = cast("T", loaded.data) if loaded.found else await documents.initial_data(None)
                before = None if data is None else documents.encode(place, data)
                data = await _apply(change, data)
                text = None if data is None else documents.encode(place, data)
                if text is None or text == before:
                    return data
                documents.verify(place, data, text)
                try:
                    match: Match = ABSENT if loaded.version is None else loaded.version
                    await documents.put(place, text, match, loaded.envelope, lease)
                except ConflictError:
                    if attempt + 1 == ATTEMPTS:
                        raise
                    await back_off(attempt)
                else:
                    return data
        raise AssertionError  # pragma: no cover - the last attempt has returned or raised

    async def move(self, old: str, new: str, *, overwrite: bool = False) -> bool:
        """
        Give a session another key, with its remaining life: for a group that became a supergroup.

        Returns:
            Whether there was a session under ``old``.

        Raises:
            ConflictError: There is one under ``new``, and ``overwrite`` is False: nothing was changed. Or others changed
                the session each time that it was moved: it is under ``old``.
            DecodeError: It cannot be unsealed. Nothing was changed.
            LockTimeoutError: One of them is open in this update, or stays open in another for too long.
            StorageError: The storage could not do it. The session is under ``old``, perhaps under both.
        """
        old_place, new_place = self.place(old), self.place(new)
        if old == new:
            return await self.documents.storage.has(old_place)
        if self.desk.mine(self, old) or self.desk.mine(self, new):
            raise LockTimeoutError(f"{old!r} or {new!r} is open in this very update, which cannot wait for its own end")
        async with self._holding(old, new):
            return await self._move(old_place, new_place, ANY if overwrite else ABSENT)

    async def _move(self, old: str, new: str, match: Match) -> bool:
        storage = self.documents.storage
        record: Record | None = None
        overtaken: ConflictError | None = None
        for attempt in range(ATTEMPTS):
            record = await storage.read(old)
            if record is None:
                break
            document = self.documents.moved(record.value, old, new)
            match = await storage.write(new, document, ttl=record.lasting, match=match)
            try:
                await storage.delete(old, match=record.version)
            except ConflictError as error:  # Another process has changed it meanwhile: then that is what moves.
                overtaken = error
                await back_off(attempt)
            else:
                return True
        if overtaken is None:
            return False
        await storage.delete(new, match=match)  # It is out of date, or the session was deleted meanwhile.
        if record is not None:
            raise overtaken
        return False

    # ------------------------------------------------------------------ all sessions

    async def keys(self, *, batch_size: int = 500) -> AsyncIterator[str]:
        """Stream the keys of all sessions of this kind. Raises as `Storage.read_all_keys` does."""
        async for key in self.storage.read_all_keys(self.prefix, batch_size=batch_size):
            if is_lease(key):
                continue
            yield key[len(self.prefix) :]

    async def entries(
        self, *, batch_size: int = 500, on_error: Callable[[CodecError], object] | None = None
    ) -> AsyncIterator[tuple[str, T]]:
        """
        Stream ``(key, data)`` of all sessions of this kind: migrated, and without those that have expired.

        Args:
            batch_size: How many to fetch in a round trip.
            on_error: Called with the error of a document that is no such session, perhaps one that another plug-in
                keeps in the same storage; it is then left out. Without it, the error is raised.

        Raises:
            DecodeError, MigrationError: There is such a document and no ``on_error``.
            StorageError: As `Storage.read_all_entries`.
        """
        async for place, record in self.storage.read_all_entries(self.prefix, batch_size=batch_size):
            if is_lease(place):
                continue
            try:
                loaded = await self.documents.unpack(place, record)
            except CodecError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            if loaded.found:
                yield place[len(self.prefix) :], cast("T", loaded.data)

    async def values(
        self, *, batch_size: int = 500, on_error: Callable[[CodecError], object] | None = None
    ) -> AsyncIterator[T]:
        """Stream the data of all sessions of this kind, as `entries` does."""
        async for _, data in self.entries(batch_size=batch_size, on_error=on_error):
            yield data

    async def count(self) -> int:
        """Return how many sessions of this kind are stored. Raises as `keys` does."""
        count = 0
        async for _ in self.keys():
            count += 1
        return count

    async def purge(self) -> int:
        """
        Free the space of expired documents, in the whole storage, and return how many there were.

        Raises:
            StorageError: The storage could not do it.
        """
        return await self.storage.purge()

    def __repr__(self) -> str:
        kind = self.documents.codec.data_type
        return f"<Sessions of {getattr(kind, '__name__', kind)} in {self.storage!r}>"


async def _apply(change: Callable[[T], T | Awaitable[T | None] | None], data: T) -> T:
    changed = change(data)
    if inspect.isawaitable(changed):
        changed = await changed
    return data if changed is None else cast("T", changed)


def _outfitted(storage: Storage, *, batching: bool, retrying: bool) -> Storage:
    """Gather and repeat operations, if they leave this process's memory; if not, there is nothing to gain."""
    if not (storage.capabilities.shared or storage.capabilities.durable):
        return storage
    if batching:
        storage = BatchedStorage(storage)
    return RetryingStorage(storage) if retrying else storage


def _seconds(ttl: float | timedelta | None) -> float | None:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if seconds is None or seconds == math.inf:
        return None
    if not is_ttl(seconds):
        raise ConfigurationError(
            f"ttl must be seconds or a timedelta above 0 and up to a hundred years, or None; not {ttl!r}"
        )
    return float(seconds)


def _expect_seconds(name: str, value: object) -> None:
    if not is_ttl(value):
        raise ConfigurationError(f"{name} must be seconds above 0 and up to a hundred years, not {value!r}")


def _expect(name: str, value: object, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")
