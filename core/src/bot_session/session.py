"""
The session of one key, for the time of one update: strict, lazy, or none.

`Sessions` (in `bot_session.sessions`) makes them.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from .documents import Loaded
from .errors import ConflictError, SessionClosedError, SessionKeyError
from .storage import ABSENT, ANY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Sequence

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
        "_canonical",
        "_cleared",
        "_closed",
        "_context",
        "_data",
        "_filling",
        "_held",
        "_lease",
        "_place",
        "_promise",
        "_sessions",
        "_stored",
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
        self._held = self._cleared = self._accessed = self._closed = False
        self._filling: asyncio.Lock | None = None
        self._lease: Lease | None = None
        self._promise: Awaitable[T | None] | None = None  # Of a lazy session.

    # ------------------------------------------------------------------ for handlers

    @property
    def data(self) -> T:
        """
        The session data: the same object throughout the update.

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
        self._accessed = self._cleared = True
        self._data, self._baseline = _UNSET, None
        initial = self._sessions.documents.initial(self._context)
        if not inspect.isawaitable(initial):
            self._begin(initial)
        elif inspect.iscoroutine(initial):
            initial.close()  # Made again when somebody asks for it.

    async def save(self) -> None:
        """
        Save now, in the middle of the update, for instance before a long wait. Unchanged data is not written.

        Raises:
            SessionClosedError: The update is over.
            SessionKeyError: The update has no session.
            EncodeError: The data would not come back as it is. Nothing was written.
            ConflictError: Somebody else changed the same, and ``on_conflict`` could not settle it.
            LockTimeoutError: The session is lazy, was not read, and another update kept it for too long.
            StorageError: The storage could not be written.
        """
        self._check()
        await self._conclude(save=True, end=False)

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
            self._filling = asyncio.Lock()
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

    def finish(self, *, save: bool) -> Coroutine[Any, Any, None]:
        """End one of its openings. At the last, save if wanted; then let others at the session, whatever happened."""
        return self._conclude(save=save, end=True)

    async def _conclude(self, *, save: bool, end: bool) -> None:
        # One coroutine for all that every update does when it ends; nothing happens before it runs.
        if end:
            self.depth -= 1
            if self.depth:
                return
        try:
            if save:
                if self._filling is not None or self._promise is not None:
                    await self._settle()
                target = self._target()
                if target is not _UNSET and not self._held and not self._lock_at_once():
                    await self.hold()
                    target = self._target()  # It may have been changed meanwhile.
                if target is not _UNSET:
                    try:
                        stored, version = target, await self._put(target, last=end)
                    except ConflictError as conflict:
                        settling = self._sessions.documents.settle(self._place, self._base, target, conflict)
                        stored, version = await settling
                    self._keep(target, stored, version)
                elif self._sessions.renew == "use":
                    await self._renew()
        finally:
            unlocking = self._close() if end else None
            if unlocking is not None:
                await unlocking

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
            self._base = self._baseline

    def _assign(self, value: T | None) -> None:
        self._check()
        self._accessed = True
        if value is None:
            self._cleared, self._baseline = True, None
        self._data = cast("T", value)

    # ------------------------------------------------------------------ saving

    async def _settle(self) -> None:
        """Wait for a load that was started and not awaited."""
        if self._filling is not None and self._filling.locked():
            async with self._filling:
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

    def _keep(self, mine: str | None, target: str | None, version: Version | None) -> None:
        """Go on, if the session does, with what was stored in place of ``mine``: the same, unless there was a conflict."""
        if self._closed:
            return
        documents, stored = self._sessions.documents, self._stored
        if target != mine:
            self._data = cast("T", None if target is None else documents.codec.decode(target))
        if stored is None:
            stored = self._stored = Loaded()
        stored.version, stored.left = version, documents.ttl
        self._base = target
        if target is not None or self._data is None:  # What `clear` left to begin with is still unchanged.
            self._baseline = target
        self._canonical, self._cleared = True, False

    def _target(self) -> Any:
        """Return the text to store, None to delete what is stored, `_UNSET` to leave it alone."""
        data, stored, sessions = self._data, self._stored, self._sessions
        nothing_stored = stored is not None and stored.version is None
        if data is _UNSET:
            return None if self._cleared and not nothing_stored else _UNSET
        text = None if data is None else sessions.documents.encode(self._place, data)
        save_always = sessions.save == "accessed"
        if nothing_stored:
            unchanged = text is None or (text == self._baseline and not save_always)
            return _UNSET if unchanged else text
        save_always = save_always and self._accessed
        if text is None or (self._cleared and text == self._baseline):
            return None if self._cleared or save_always else _UNSET
        return text if save_always or stored is None or self._is_change(text) else _UNSET

    def _is_change(self, text: str) -> bool:
        if text == self._baseline:
            return False
        if self._canonical or self._baseline is None:
            return True
        # The texts differ, but perhaps only as another program writes the same data.
        self._baseline, self._canonical = self._sessions.documents.canonical(self._baseline), True
        return text != self._baseline

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

    __slots__ = ("_locking", "together")

    def __init__(self, sessions: Sessions[T], key: str, place: str, slot: Slot, context: object) -> None:
        super().__init__(sessions, key, place, slot, context)
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
            self._promise = value
        else:
            self._assign(value)

    async def get(self) -> T:
        await self._keep_promise()
        return await super().get()

    def clear(self) -> None:
        self._drop_promise()
        super().clear()

    def finish(self, *, save: bool) -> Coroutine[Any, Any, None]:
        if not save and self.depth == 1:
            self._drop_promise()
        return super().finish(save=save)

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

    async def _settle(self) -> None:
        await self._keep_promise()
        await super()._settle()

    async def _keep_promise(self) -> None:
        # Taken away first: what is awaited may itself ask for what was there before.
        promise, self._promise = self._promise, None
        if promise is not None:
            self._assign(await promise)

    def _drop_promise(self) -> None:
        if inspect.iscoroutine(self._promise):
            self._promise.close()  # Nobody will await it, and Python would warn.
        self._promise = None


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
