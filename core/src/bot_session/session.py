"""
The session of one key, for the time of one update: strict, lazy, or none.

`Sessions` (in `bot_session.sessions`) makes them.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from .codec import fill
from .documents import Base, Loaded
from .errors import ConflictError, SessionClosedError, SessionKeyError
from .storage import ABSENT, ANY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from .desk import Slot
    from .leases import Lease
    from .sessions import Sessions
    from .storage import Match, Version

__all__ = ["KeylessSession", "LazySession", "Session"]

T = TypeVar("T")

SLACK: Final = 0.1
"""With ``renew="use"``: the part of a TTL that must have passed before it is renewed, so that looking rarely writes."""

_UNSET: Any = type("Unset", (), {"__repr__": lambda _: "UNSET"})()


class Session(Generic[T]):
    """
    The session of one key, for the time of one update.

    Change `data` in place or assign it; what changed is saved when the update is over, unless its handler raised.

    Attributes:
        key: Whose session it is, as given to `Sessions.open`, without the prefix.
        is_new: Whether nothing was stored when it was loaded.
    """

    __slots__ = (
        "_accessed",
        "_base",
        "_baseline",
        "_began",
        "_canonical",
        "_cleared",
        "_closed",
        "_context",
        "_data",
        "_filling",
        "_forgotten",
        "_held",
        "_lease",
        "_place",
        "_saving",
        "_sessions",
        "_stored",
        "_unsettled",
        "depth",
        "is_new",
        "key",
        "place",
        "slot",
    )

    def __init__(self, sessions: Sessions[T], key: str, place: str, slot: Slot, context: object) -> None:
        self.key = key
        self.is_new = False
        self.depth = 0  # How many times it is open, one within the other.
        self.slot = slot  # On the desk.
        self.place = slot[0]  # Its key in the storage itself.
        self._sessions = sessions
        self._place = place  # Its key in the storage of its sessions.
        self._context = context
        self._data: T = _UNSET
        self._baseline: str | None = None  # The text that means "unchanged".
        self._canonical = True  # Whether the baseline is certainly as our own codec would write it.
        self._base: str | None = None  # What the data was when it was read: where a merge starts.
        self._stored: Loaded[T] | None = None  # What is in the storage, as far as this session knows.
        self._held = self._accessed = self._closed = False
        self._began = False  # Whether the base is initial data, which was never stored.
        self._cleared: object = None  # What is stored is to be deleted; each time that is decided, another object.
        self._forgotten = False  # Whether that was ever decided: then initial data is no longer worth storing.
        self._filling: asyncio.Lock | None = None
        self._saving: asyncio.Lock | None = None
        self._unsettled = False  # Whether something was begun that may have to be waited for before saving.
        self._lease: Lease | None = None

    # ------------------------------------------------------------------ for handlers

    @property
    def data(self) -> T:
        """
        The session data: the same object throughout the update, if its type allows to change it in place.

        Assigning replaces it; assigning None deletes the session. A lazy session must be loaded first: see `get`.

        Raises:
            SessionClosedError: The update is over.
            SessionKeyError: The update has no session.
            RuntimeError: The session is lazy and was not loaded.
        """
        data = self._data
        if self._closed or data is _UNSET:
            self._check()
            raise RuntimeError("this session is not loaded yet: write `data = await session.get()`")
        self._accessed = True
        return data

    @data.setter
    def data(self, value: T | None) -> None:
        self._assign(value)

    async def get(self) -> T:
        """
        Return the data, loading it at the first call: for strict and lazy sessions alike.

        However many tasks call it, the storage is read once. If that fails, the next call tries again.

        Raises:
            SessionClosedError: The update is over.
            SessionKeyError: The update has no session.
            StorageError: The storage could not be read.
            DecodeError, MigrationError: What is stored is not what the code expects. It stays as it is.
            LockTimeoutError: Another update kept the session for too long.
        """
        self._check()
        if self._data is _UNSET:
            await self.load()
            self._check()
        self._accessed = True
        return self._data

    def clear(self) -> None:
        """
        Forget everything: the session is deleted from the storage, and its data is initial again.

        Both happen when the session is saved. Later changes in the same update are saved instead. With an async
        ``initial``, use `get` to see the data afterwards.

        Raises:
            SessionClosedError: The update is over.
            SessionKeyError: The update has no session.
        """
        self._check()
        self._accessed = self._forgotten = True
        self._cleared = object()
        self._data, self._baseline = _UNSET, None
        initial = self._sessions.documents.initial(self._context)
        if not inspect.isawaitable(initial):
            self._begin(initial)
        elif inspect.iscoroutine(initial):
            initial.close()  # Made again when somebody asks for it.

    async def save(self) -> None:
        """
        Save now, in the middle of the update, for instance before a long wait. Unchanged data is not written.

        What another process changed, and was merged, is then in the data too.

        Raises:
            SessionClosedError: The update is over.
            SessionKeyError: The update has no session.
            EncodeError: The data would not come back as it is. Nothing was written.
            ConflictError: Somebody else changed the same, and ``on_conflict`` could not settle it.
            LockTimeoutError: The session is lazy, was not read, and another update kept it for too long.
            StorageError: The storage could not be written.
        """
        self._check()
        if self._saving is None:
            self._saving, self._unsettled = asyncio.Lock(), True
        async with self._saving:  # One at a time: the next one starts from what this one has stored.
            self._check()
            await self.finish(save=True, end=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r}{' (closed)' if self._closed else ''}>"

    # ------------------------------------------------------------------ for Sessions

    @property
    def sessions(self) -> Sessions[T]:
        """The kind of session this is one of."""
        return self._sessions

    async def load(self) -> None:
        """Make sure that there is data. Whoever comes while it is being read waits for the same reading."""
        if self._filling is None:
            self._filling, self._unsettled = asyncio.Lock(), True
        async with self._filling:
            if self._data is _UNSET:
                await self.fill()

    async def fill(self) -> None:
        """Read what is stored, or make initial data. Whatever is assigned meanwhile stands."""
        documents = self._sessions.documents
        if not self._cleared:
            if self._held or self._lock_at_once():
                record = await documents.storage.read(self._place)
            else:
                await self.hold()
                record = await documents.read(self._place, self._lease)
            self._take(documents.unpack_at_once(self._place, record) or await documents.unpack(self._place, record))
        if self._data is _UNSET:
            data = await documents.initial_data(self._context)
            if self._data is _UNSET:
                self._begin(data)

    async def finish(self, *, save: bool, end: bool = True) -> None:
        """
        End one of its openings. At the last, save if wanted; then let others at the session, whatever happened.

        Without ``end``, save only. One coroutine for both, since every update awaits it.
        """
        if end:
            self.depth -= 1
            if self.depth:
                return
        try:
            if save:
                target = await self._target_in_turn(end=end) if self._unsettled else self._target()
                if not (target is _UNSET or self._held or self._lock_at_once()):
                    target = await self._target_in_turn(end=end)
                if target is not _UNSET:
                    cleared = self._cleared
                    try:
                        stored, version = target, await self._put(target, last=end)
                    except ConflictError as conflict:
                        base = Base(self._base, not self._began)
                        stored, version = await self._sessions.documents.settle(self._place, base, target, conflict)
                    if not self._closed:
                        self._keep(target, stored, version, cleared)
                elif self._sessions.renew == "use":
                    await self._renew()
        finally:
            unlocking = self._close() if end else None
            if unlocking is not None:
                await unlocking

    async def _target_in_turn(self, *, end: bool) -> Any:
        """Return `_target` when all that was begun has ended, and, unless there is nothing to do, the locks are taken."""
        while True:
            await self._settle(end=end)
            target = self._target()
            if target is _UNSET or self._held or self._lock_at_once():
                return target
            await self.hold()  # It may be changed meanwhile, or saved.

    def _close(self) -> Awaitable[None] | None:
        """End it, and let others at the session; what this returns is still to be waited for."""
        self._closed = True
        self._sessions.desk.leave(self)
        if self._lease is not None:
            return self._unlock()
        if self._held:
            self._held = False
            self._sessions.desk.locks.release(self.place)
        return None

    async def hold(self) -> None:
        """Take the locks that saving or loading needs, unless this session has them."""
        await self.lock()
        self._check()

    def _lock_at_once(self) -> bool:
        """Take the locks if nobody has to be asked or waited for, as is the rule, and say whether that was so."""
        sessions = self._sessions
        self._held = not self._closed and sessions.lock == "process" and sessions.desk.locks.try_acquire(self.place)
        return self._held

    async def lock(self) -> None:
        """Take the key's lock, unless this session has it, or is over when its turn comes."""
        if self._held:
            return
        sessions, lease = self._sessions, None
        if not sessions.desk.locks.try_acquire(self.place):
            await sessions.desk.lock(self)
        try:
            if sessions.lock == "shared":
                lease = sessions.lease(self.key)
                await lease.acquire(sessions.lock_timeout)
        except BaseException:
            sessions.desk.locks.release(self.place)
            raise
        self._held, self._lease = True, lease
        if self._closed:
            await self._unlock()

    async def _unlock(self) -> None:
        self._held = False
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                await lease.release()
        finally:
            self._sessions.desk.locks.release(self.place)

    # ------------------------------------------------------------------ its data

    def _take(self, stored: Loaded[T]) -> None:
        """Start with what was read."""
        self._stored = stored
        self._base = stored.text
        self.is_new = not stored.found
        if stored.found and self._data is _UNSET and not self._cleared:
            self._data, self._baseline, self._canonical = stored.data, stored.text, stored.canonical

    def _begin(self, data: T) -> None:
        """Start with initial data, which is not worth storing until it is changed."""
        self._data, self._canonical = data, True
        self._baseline = None if data is None else self._sessions.documents.encode(self._place, data)
        if self._base is None:
            self._base, self._began = self._baseline, True

    def _assign(self, value: T | None) -> None:
        self._check()
        self._accessed = True
        if value is None:
            self._cleared, self._forgotten, self._baseline = object(), True, None
        self._data = cast("T", value)

    # ------------------------------------------------------------------ saving

    async def _settle(self, *, end: bool) -> None:
        """Wait for a load that was started and not awaited; at the `end`, for such a save too."""
        for begun in (self._filling, self._saving if end else None):
            if begun is not None and begun.locked():
                async with begun:
                    pass

    def _put(self, target: str | None, *, last: bool) -> Awaitable[Version | None]:
        """Begin to write, the `last` time or not, and return what is still to be waited for."""
        documents, stored = self._sessions.documents, self._stored
        if target is not None:
            documents.verify(self._place, self._data, target)
        match: Match
        if stored is None:
            match, envelope = ANY, None
        else:
            match, envelope = ABSENT if stored.version is None else stored.version, stored.envelope
        putting = documents.put(self._place, target, match, envelope, self._lease if last else None)
        if last:
            # From here on `put` gives the lease back; what cannot be sealed has not come so far. And whoever still
            # changes the data is told that it is too late. Dropped here, it is not there twice for as long as it takes.
            self._lease = self._stored = None
            self._data, self._closed = _UNSET, True
        return putting

    def _keep(self, mine: str | None, target: str | None, version: Version | None, cleared: object) -> None:
        """
        Go on with what was stored in place of ``mine``: the same, unless there was a conflict.

        Raises:
            ConflictError: What was changed since does not go together with it. The next save tries again.
        """
        unchanged = self._cleared is cleared  # If not, it was decided meanwhile to delete what was stored.
        if target != mine and unchanged:
            self._data = self._renewed(mine, target)
        if self._stored is None:
            self._stored = Loaded()
        self._stored.version, self._stored.left = version, self._sessions.documents.ttl
        self._base, self._began = target, False
        if unchanged:
            self._cleared, self._canonical = None, True
            if target is not None or self._data is None:  # What `clear` left to begin with is still unchanged.
                self._baseline = target

    def _renewed(self, mine: str | None, target: str | None) -> T:
        """Return the data as it was settled, with what was changed since."""
        documents, data = self._sessions.documents, self._data
        if mine is not None and data is not None:
            target = documents.merge(Base(mine), documents.encode(self._place, data), target)
        return cast("T", None if target is None else fill(data, documents.codec.decode(target)))

    def _target(self) -> Any:
        """Return the text to store, None to delete what is stored, `_UNSET` to leave it alone."""
        data, stored, sessions = self._data, self._stored, self._sessions
        nothing_stored = stored is not None and stored.version is None
        if data is _UNSET:
            return None if self._cleared and not nothing_stored else _UNSET
        text = None if data is None else sessions.documents.encode(self._place, data)
        save_always = sessions.save == "accessed"
        if nothing_stored:
            save_always = save_always and not self._forgotten
            return text if text is not None and (save_always or self._is_change(text)) else _UNSET
        save_always = save_always and self._accessed
        if text is None or (self._cleared and text == self._baseline):
            return None if self._cleared or save_always else _UNSET
        return text if save_always or stored is None or self._is_change(text) else _UNSET

    def _is_change(self, text: str) -> bool:
        baseline, codec = self._baseline, self._sessions.documents.codec
        if text == baseline:
            if self._accessed and "null" in text:  # So NaN is written, which is a change that cannot be stored.
                self._sessions.documents.verify(self._place, self._data, text)
            return False
        if baseline is None or (self._canonical and codec.is_steady):
            return True
        # The texts differ, but perhaps only as another program writes the same data, or another set of the same.
        self._baseline, self._canonical = codec.canonical(baseline), True
        return (text if codec.is_steady else codec.canonical(text)) != self._baseline

    async def _renew(self) -> None:
        """With ``renew="use"``: give a session that was looked at, but not changed, its full TTL again."""
        sessions, stored = self._sessions, self._stored
        ttl = sessions.documents.ttl
        if ttl is None or not self._accessed or stored is None or stored.version is None:
            return
        if stored.left is None or stored.left < ttl * (1 - SLACK):
            await sessions.documents.storage.touch(self._place, ttl)
            stored.left = ttl

    def _check(self) -> None:
        if self._closed:
            raise SessionClosedError(
                f"the session {self.key!r} is over, since its update was handled; open it again: "
                "`async with sessions.open(key) as session`"
            )


class LazySession(Session[T]):
    """
    A session that is read when somebody asks for it, and not at all if nobody does.

    Untouched, it costs no storage call and no lock. Assigning `data` before reading overwrites whatever is stored,
    without reading it. An awaitable may be assigned too: it is awaited before saving, and inside it `get` gives what
    was there before.
    """

    __slots__ = ("_keeping", "_locking", "_promise", "together")

    def __init__(self, sessions: Sessions[T], key: str, place: str, slot: Slot, context: object) -> None:
        super().__init__(sessions, key, place, slot, context)
        self._promise: Awaitable[T | None] | None = None  # What was assigned, as long as it is not there;
        self._keeping: asyncio.Task[T | None] | None = None  # and who awaits it for all who ask.
        self._locking = asyncio.Lock()  # Several tasks of one handler may be the first to need the key's lock.
        self.together: Sequence[Session[Any]] = ()  # Those whose locks are taken with its own, in this order.

    @property
    def data(self) -> T:
        if self._promise is not None:
            raise RuntimeError("this session was assigned an awaitable: write `data = await session.get()`")
        return super().data

    @data.setter
    def data(self, value: T | Awaitable[T | None] | None) -> None:
        self._drop_promise()
        if inspect.isawaitable(value):
            self._check()
            self._promise, self._unsettled = value, True
        else:
            self._assign(value)

    async def get(self) -> T:
        await self._keep_promise()
        return await super().get()

    def clear(self) -> None:
        self._drop_promise()
        super().clear()

    async def finish(self, *, save: bool, end: bool = True) -> None:
        if not save and self.depth == 1:
            self._drop_promise()
        await super().finish(save=save, end=end)

    async def hold(self) -> None:
        if not self._held:
            for session in self.together or (self,):
                await session.lock()
            self._check()

    def _lock_at_once(self) -> bool:
        return False

    async def lock(self) -> None:
        async with self._locking:
            if not self._closed:
                await super().lock()

    async def _settle(self, *, end: bool) -> None:
        await self._keep_promise()
        await super()._settle(end=end)

    async def _keep_promise(self) -> None:
        """Wait for what was assigned. Only what is awaited may itself ask for what was there before."""
        while (promise := self._promise) is not None and promise is not asyncio.current_task():
            if _awaited_for.get() is self:
                return
            keeping = self._keeping = self._keeping or asyncio.create_task(_await_for(self, promise))
            await asyncio.wait([keeping])  # Whoever gives up waiting does not stop it.
            if self._keeping is keeping:
                self._promise = self._keeping = None
                self._assign(keeping.result())
            elif not keeping.cancelled():
                keeping.result()  # Others were told as well, if it failed.

    def _drop_promise(self) -> None:
        if _awaited_for.get() is self:
            return
        promise, keeping = self._promise, self._keeping
        self._promise = self._keeping = None
        if keeping is not None:
            keeping.cancel()
        elif inspect.iscoroutine(promise):
            promise.close()  # Nobody will await it, and Python would warn.


_awaited_for: ContextVar[LazySession[Any] | None] = ContextVar("_awaited_for", default=None)
"""The session to which was assigned what is being awaited here."""


async def _await_for(session: LazySession[Any], promise: Awaitable[T]) -> T:
    _awaited_for.set(session)
    return await promise


class KeylessSession(Session[T]):
    """What a handler is given when its update has no session key: touching it raises, and nothing else does."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.key = ""
        self.is_new = False
        self.depth = 0
        self._data = _UNSET
        self._closed = False

    def _check(self) -> None:
        raise SessionKeyError(self._reason)

    def __repr__(self) -> str:
        return "<KeylessSession>"
