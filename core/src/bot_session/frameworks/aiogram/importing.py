"""
Bring along what aiogram's own FSM storages kept.

.. code-block:: python

    storage = open_storage("sqlite:bot.db")
    async with Redis.from_url("redis://localhost") as redis, storage:
        print(await import_redis_fsm(redis, SessionFSMStorage(storage)), "documents copied")
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from aiogram.fsm.storage.base import DefaultKeyBuilder

from bot_session.errors import ConfigurationError, ConflictError
from bot_session.storage import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_session.sessions import Sessions

    from .fsm import SessionFSMStorage

__all__ = ["import_mongo_fsm", "import_redis_fsm"]


async def import_redis_fsm(
    redis: Any, target: SessionFSMStorage, *, json_loads: Callable[[str], Any] = json.loads
) -> int:
    """
    Copy what aiogram's `RedisStorage` kept, with the life it has left.

    What the target has already stays as it is, so that this may be run again. Nothing is changed in Redis.

    Args:
        redis: A client of redis-py's asyncio kind.
        target: Where to. Its key builder says which keys are meant, and must be the one that the old bot used.
        json_loads: As `RedisStorage` was given.

    Returns:
        How many documents were copied.

    Raises:
        ConfigurationError: The key builder is not aiogram's own.
        EncodeError: ``json_loads`` made data that is not listed in `bot_session.frameworks.values`. What came before it
            was copied.
        StorageError: The target could not be written.
    """
    start, separator = _shape(target)
    copied = 0
    async for name in redis.scan_iter(match=_literally(start) + "*"):
        key = _text(name)
        part = key.rpartition(separator)[2]
        if part not in ("state", "data"):
            continue
        value, left = await redis.get(name), await redis.pttl(name)
        if value is None:
            continue
        text = _text(value)
        copied += await _copy(target, part, key, text if part == "state" else json_loads(text), left / 1000)
    return copied


async def import_mongo_fsm(collection: Any, target: SessionFSMStorage) -> int:
    """
    Copy what aiogram's `PyMongoStorage` or `MongoStorage` kept.

    Args:
        collection: Theirs, of PyMongo's asyncio kind or Motor's: ``client["aiogram_fsm"]["states_and_data"]``.
        target: As for `import_redis_fsm`.

    Returns:
        How many documents were copied, two for each with both state and data.

    Raises:
        ConfigurationError: As for `import_redis_fsm`.
        EncodeError: There is data that is not listed in `bot_session.frameworks.values`: an ``ObjectId``. What came
            before it was copied.
        StorageError: The target could not be written.
    """
    start, separator = _shape(target)
    copied = 0
    async for document in collection.find():
        if not str(document["_id"]).startswith(start):
            continue
        for part in ("state", "data"):
            if document.get(part):
                key = f"{document['_id']}{separator}{part}"
                copied += await _copy(target, part, key, _plain(document[part]), 0)
    return copied


async def _copy(target: SessionFSMStorage, part: str, key: str, value: Any, left: float) -> bool:
    """Write what the target does not have, to live for the seconds that it has left, if there are any."""
    sessions = cast("Sessions[Any]", target.states if part == "state" else target.data)
    documents, place = sessions.documents, sessions.place(key)
    text = documents.encode(place, value)
    documents.verify(place, value, text)
    try:
        await documents.put(place, text, ABSENT, None)
    except ConflictError:
        return False
    if left > 0:
        await sessions.storage.touch(place, left)
    return True


def _shape(target: SessionFSMStorage) -> tuple[str, str]:
    """Return how the keys of a target begin, and what separates their parts."""
    builder = target.key_builder
    if not isinstance(builder, DefaultKeyBuilder):
        raise ConfigurationError(
            f"only the keys of aiogram's DefaultKeyBuilder can be recognised, not those of {type(builder).__name__}"
        )
    return builder.prefix + builder.separator, builder.separator


def _literally(text: str) -> str:
    """Escape what has a meaning in Redis's patterns."""
    return "".join(f"\\{character}" if character in "\\*?[]^-" else character for character in text)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:
    """Turn BSON's own integers into Python's; whatever else is no plain Python data is refused when it is encoded."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
