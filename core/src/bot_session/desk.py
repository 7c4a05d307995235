"""Where sessions lie while they are open: one to a task and key, in turn if several tasks want the same."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .errors import ConfigurationError, LockTimeoutError
from .locks import KeyLocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .session import Session
    from .sessions import Sessions
    from .storage import Storage

__all__ = ["Desk", "Slot"]

T = TypeVar("T")

Slot: TypeAlias = tuple[str, asyncio.Task[Any] | None]
"""A place and the task that has it open."""

_Shared: TypeAlias = "tuple[KeyLocks, dict[Slot, Session[Any]], dict[str, asyncio.Task[Any] | None]]"


class Desk:
    """
    Where the sessions of one storage lie while they are open, and where they wait for their turn.

    All `Sessions` on one storage share what is on it.

    Args:
        root: The storage itself, without wrappers.
        prefix: What its wrappers put before every key there.
        timeout: Seconds to wait for a key at most; None is for ever.
    """

    def __init__(self, root: Storage, prefix: str, timeout: float | None) -> None:
        self.root = root
        self.prefix = prefix
        # With the storage, and gone with it: the locks, the sessions that are open, and who holds a place without one.
        # An attribute like any other: through `vars`, all others of the storage would become slower for Python to find.
        shared: _Shared = root._desk or (KeyLocks(), {}, {})  # noqa: SLF001
        root._desk = shared  # noqa: SLF001
        self.locks, self._open, self._holders = shared
        self._timeout = timeout

    def mine(self, sessions: Sessions[T], key: str) -> Session[T] | None:
        """
        Return the session of this key that the current task has open, if it has.

        Raises:
            ConfigurationError: It has, but one of another kind: the two would overwrite each other.
            InvalidKeyError: As `Sessions.place`.
        """
        session = self._open.get((self.prefix + sessions.place(key), asyncio.current_task()))
        if session is not None:
            _expect(session, sessions)
        return session

    def take(self, kind: type[Session[Any]], sessions: Sessions[T], key: str, context: object) -> Session[T]:
        """Return `mine`, or else a new session, opened once more than before. Raises as `mine` does."""
        place = sessions.place(key)
        slot = self.prefix + place, asyncio.current_task()
        session = self._open.get(slot)
        if session is None:
            session = self._open[slot] = kind(sessions, key, place, slot, context)
        else:
            _expect(session, sessions)
        session.depth += 1
        return session

    def leave(self, session: Session[Any]) -> None:
        """Take a session off the desk."""
        del self._open[session.slot]

    async def lock(self, session: Session[Any]) -> None:
        """
        Wait until those of the session's key that came before have released its lock.

        Raises:
            LockTimeoutError: That took too long, or the current task is one of them.
        """
        self._refuse_itself(session.place)
        await self.locks.acquire(session.place, self._timeout)

    @asynccontextmanager
    async def holding(self, *places: str) -> AsyncIterator[None]:
        """Keep sessions waiting whose keys in the storage of their `Sessions` are these. Raises as `lock` does."""
        held = {self.prefix + place for place in places}
        for place in held:
            self._refuse_itself(place)
        async with self.locks.holding(*held, timeout=self._timeout):
            holders = dict.fromkeys(held, asyncio.current_task())
            self._holders.update(holders)
            try:
                yield
            finally:
                for place in held:
                    del self._holders[place]

    def _refuse_itself(self, place: str) -> None:
        if place in self._holders and self._holders[place] is asyncio.current_task():
            raise LockTimeoutError(
                f"session {place!r} is being updated by this very task, which cannot wait for its own end: what `update` "
                "calls is given the data to change"
            )


def _expect(session: Session[Any], sessions: Sessions[Any]) -> None:
    if session.sessions is not sessions:
        raise ConfigurationError(
            f"two kinds of session meet in one storage under the key {session.place!r}: "
            'give one of them a prefix, for instance prefix="user:"'
        )
