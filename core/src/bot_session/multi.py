"""Several kinds of session for one update: per user and per chat, for instance, each with its own storage and life."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .keys import key_of
from .session import KeylessSession, LazySession, Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping
    from types import TracebackType

    from .keys import KeyFunction
    from .sessions import ControlFlow, Sessions

__all__ = ["MultiOpening", "MultiSession", "MultiSessions"]


class MultiSession:
    """
    The sessions that one update touches, one attribute for each: ``session.user.data``, ``session.chat.data``.

    A fragment whose key function returned None raises `SessionKeyError` when it is touched; the others work.
    """

    def __init__(self, fragments: Mapping[str, Session[Any]]) -> None:
        object.__setattr__(self, "_fragments", dict(fragments))

    def __getattr__(self, name: str) -> Session[Any]:
        return self[name]

    def __getitem__(self, name: str) -> Session[Any]:
        fragments: dict[str, Session[Any]] = object.__getattribute__(self, "_fragments")
        try:
            return fragments[name]
        except KeyError:
            raise AttributeError(f"there is no session fragment {name!r}, only {', '.join(fragments)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a session fragment cannot be replaced: write `session.{name}.data = …`")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the fragments."""
        return iter(object.__getattribute__(self, "_fragments"))

    def clear(self) -> None:
        """Clear every fragment that this update has a key for; the others are passed over."""
        for name in self:
            if not isinstance(self[name], KeylessSession):
                self[name].clear()

    def assign(self, values: Mapping[str, Any] | None) -> None:
        """
        Assign the data of several fragments by name; those left out stay. None deletes every one that has a key.

        Raises:
            AttributeError: There is no fragment of such a name. Nothing was assigned.
            SessionKeyError: This update has no key for one of them.
        """
        if values is None:
            values = {name: None for name in self if not isinstance(self[name], KeylessSession)}
        for fragment, value in [(self[name], value) for name, value in values.items()]:
            fragment.data = value

    def __repr__(self) -> str:
        return f"<MultiSession {', '.join(self)}>"


class MultiSessions:
    """
    Several `Sessions` that are opened together, by name.

    Their keys' locks are taken in one order everywhere, so that two updates never wait for each other; they are read
    side by side, and written side by side. Lazy fragments are read one by one as they are asked for; the first one that
    is takes the locks of all.

    Args:
        fragments: The kinds of session by name. Each has its own key function, prefix and storage.

    Raises:
        ConfigurationError: There are none, or a name is one that `MultiSession` needs.
    """

    def __init__(self, **fragments: Sessions[Any]) -> None:
        if not fragments:
            raise ConfigurationError("MultiSessions needs at least one kind: MultiSessions(user=Sessions(...))")
        for name in fragments:
            if name.startswith("_") or hasattr(MultiSession, name):
                raise ConfigurationError(f"a session fragment cannot be called {name!r}")
        self.fragments = fragments

    def open(
        self,
        keys: Mapping[str, str | None],
        *,
        lazy: bool = False,
        context: object = None,
        passthrough: ControlFlow = (),
    ) -> MultiOpening:
        """
        Open a session of each kind: ``async with multi.open({"user": "42", "chat": "-100"}) as session: ...``.

        Args:
            keys: The key for each fragment, by name; None, or left out, if there is none.
            lazy: As `Sessions.open`.
            context: As `Sessions.open`.
            passthrough: As `Sessions.open`.

        Raises:
            ConfigurationError: There is no fragment of such a name; or, when entered: two have the same storage and key.
            BotSessionError: As `Session.get` when entered, as `Session.save` when left.
        """
        if unknown := keys.keys() - self.fragments.keys():
            raise ConfigurationError(f"there is no session {min(unknown)!r}, but {', '.join(self.fragments)}")
        return MultiOpening(self, keys, lazy=lazy, context=context, passthrough=passthrough)

    async def open_for(
        self, origin: Any, *, key: KeyFunction | None = None, lazy: bool = False, passthrough: ControlFlow = ()
    ) -> MultiOpening:
        """
        Find out whose sessions an update touches, and open them: as `Sessions.open_for`.

        Raises:
            SessionKeyError: A key function returned something that is no key.
        """
        keys = {name: await key_of(key or sessions.key, origin) for name, sessions in self.fragments.items()}
        return self.open(keys, lazy=lazy, context=origin, passthrough=passthrough)

    def __repr__(self) -> str:
        return f"<MultiSessions {', '.join(self.fragments)}>"


class MultiOpening:
    """An asynchronous context manager that gives a `MultiSession`: what `MultiSessions.open` returns."""

    def __init__(
        self,
        multi: MultiSessions,
        keys: Mapping[str, str | None],
        *,
        lazy: bool,
        context: object,
        passthrough: ControlFlow,
    ) -> None:
        self._multi = multi
        self._keys = keys
        self._lazy = lazy
        self._context = context
        self._passthrough = passthrough
        self._mine: list[Session[Any]] = []  # Without a key, and open already, are not here.

    async def __aenter__(self) -> MultiSession:
        try:
            fragments = {name: self._fragment(name, sessions) for name, sessions in self._multi.fragments.items()}
            # One order for everybody, in other processes too, whatever the fragments are called: that of the places.
            self._mine.sort(key=_order)
            if not self._lazy:
                for session in self._mine:
                    await session.lock()
                await _all(session.load() for session in self._mine)
        except BaseException:
            await self._leave(save=False)
            raise
        return MultiSession(fragments)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(save=error is None or isinstance(error, self._passthrough))

    def _fragment(self, name: str, sessions: Sessions[Any]) -> Session[Any]:
        key = self._keys.get(name)
        if key is None:
            return KeylessSession(f"this update has no session {name!r}: its key is None")
        place = (sessions.desk.root, sessions.desk.prefix + sessions.place(key))
        if any(place == (other.sessions.desk.root, other.place) for other in self._mine):
            raise ConfigurationError(
                f"two session fragments, {name!r} among them, have the same storage and the same key {place[1]!r}: "
                f'give each a prefix, for instance prefix="{name}:"'
            )
        session = sessions.desk.take(LazySession if self._lazy else Session, sessions, key, self._context)
        self._mine.append(session)
        if isinstance(session, LazySession) and session.depth == 1:
            session.together = self._mine
        return session

    async def _leave(self, *, save: bool) -> None:
        depths = [session.depth for session in self._mine]
        try:
            await _all(session.finish(save=save) for session in self._mine)
        finally:
            async with AsyncExitStack() as rest:  # It goes on to the next if one of them fails.
                for session, depth in zip(self._mine, depths, strict=True):
                    if session.depth == depth:  # We were cancelled before this one began to end.
                        rest.push_async_callback(session.finish, save=False)


def _order(session: Session[Any]) -> tuple[str, str, int]:
    root = session.sessions.desk.root
    return session.place, repr(root), id(root)


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Run steps side by side, each to its end; then raise the first error."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"another fragment failed too: {other!r}")
        raise errors[0]
