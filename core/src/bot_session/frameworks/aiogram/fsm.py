"""aiogram's finite state machine over any storage, and the updates of one conversation one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiogram import exceptions
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseEventIsolation, BaseStorage, DefaultKeyBuilder

from bot_session.frameworks.values import PythonCodec
from bot_session.locks import KeyLocks
from bot_session.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import timedelta

    from aiogram.fsm.storage.base import KeyBuilder, StateType, StorageKey

    from bot_session.storage import Storage

__all__ = ["SessionEventIsolation", "SessionFSMStorage"]

DataNotDictLikeError: Final[type[Exception]] = getattr(exceptions, "DataNotDictLikeError", TypeError)
"""What aiogram's own storages raise; older versions have no error for it."""


class SessionFSMStorage(BaseStorage):
    """
    Keeps states and data of aiogram's FSM in a storage: ``Dispatcher(storage=SessionFSMStorage(open_storage(url)))``.

    State and data are two documents, under the keys that aiogram's own `RedisStorage` uses: each is replaced by one
    write, and setting one never disturbs the other. `update_data` is atomic, between processes too. Data comes back as
    it was, as from aiogram's `MemoryStorage`: what is in it may be all that `bot_session.frameworks.values` lists, dates
    and dicts with integer keys among it. Anything else is an `EncodeError`.

    Args:
        storage: Where to keep them; sessions may be in it, too.
        key_builder: aiogram's; as in aiogram, by default one that tells neither bots nor business connections apart.
            For several bots in one storage: ``DefaultKeyBuilder(with_bot_id=True)``.
        prefix: What to put before every key.
        state_ttl: Seconds, or a `timedelta`, that a state lives after it was last set; None is for ever.
        data_ttl: The same for data.
        close_storage: Whether `close`, which the dispatcher calls when it shuts down, closes the storage.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        key_builder: KeyBuilder | None = None,
        prefix: str = "",
        state_ttl: float | timedelta | None = None,
        data_ttl: float | timedelta | None = None,
        close_storage: bool = False,
    ) -> None:
        self.storage = storage
        self.key_builder = key_builder or DefaultKeyBuilder()
        self.states = Sessions(storage, type=str, prefix=prefix, ttl=state_ttl)
        self.data = Sessions[dict[str, Any]](
            storage, initial=dict, codec=PythonCodec(dict), prefix=prefix, ttl=data_ttl
        )
        self._close_storage = close_storage

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        name = state.state if isinstance(state, State) else state
        async with self.states.open(self.key_builder.build(key, "state"), lazy=True) as session:
            session.data = None if name is None else str(name)

    async def get_state(self, key: StorageKey) -> str | None:
        return await self.states.read(self.key_builder.build(key, "state"))

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        async with self.data.open(self.key_builder.build(key, "data"), lazy=True) as session:
            session.data = _as_dict(data) or None  # Nothing is kept for an empty dict.

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        return await self.data.read(self.key_builder.build(key, "data")) or {}

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        new = _as_dict(data)
        return await self.data.update(self.key_builder.build(key, "data"), lambda old: {**old, **new})

    async def close(self) -> None:
        if self._close_storage:
            await self.storage.close()


def _as_dict(data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise DataNotDictLikeError(f"FSM data must be a dict, not {type(data).__name__}")
    return dict(data)


class SessionEventIsolation(BaseEventIsolation):
    """
    One update of a conversation at a time, in order: ``Dispatcher(events_isolation=SessionEventIsolation())``.

    A session alone sees to that from where it is opened. But aiogram asks for the state first, and if that comes over
    a network, a later update may get its answer, and so the session, earlier. This lock is taken before. Other than
    aiogram's `SimpleEventIsolation` it keeps nothing for conversations that are idle. It holds within one process.

    Args:
        lock_timeout: Seconds to wait at most; then `LockTimeoutError`, in the framework's error handling as any other.
            None is for ever.
    """

    def __init__(self, *, lock_timeout: float | None = None) -> None:
        self.locks = KeyLocks()
        self.lock_timeout = lock_timeout
        self._key_builder = DefaultKeyBuilder(with_bot_id=True, with_business_connection_id=True, with_destiny=True)

    @asynccontextmanager
    async def lock(self, key: StorageKey) -> AsyncGenerator[None, None]:
        async with self.locks.holding(self._key_builder.build(key, "lock"), timeout=self.lock_timeout):
            yield

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
