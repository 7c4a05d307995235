"""Bring along what `PicklePersistence` kept: a pickle is opened once, by an unpickler that runs nobody's code."""

from __future__ import annotations

import asyncio
import pickle
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID, SafeUUID

from bot_session.errors import DecodeError

from .persistence import THE_ONE, BotSessionPersistence

if TYPE_CHECKING:
    import os
    from typing import BinaryIO

    from telegram.ext import ContextTypes

    from bot_session.storage import Storage

__all__ = ["import_pickle"]

PARTS: Final = ("user_data", "chat_data", "bot_data", "callback_data", "conversations")

PLAIN: Final = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (set, frozenset, date, datetime, time, timedelta, timezone, Decimal, UUID, SafeUUID)
}
"""All classes that a pickle may name; what Python has syntax for needs no name."""


async def import_pickle(
    path: str | os.PathLike[str],
    storage: Storage,
    *,
    prefix: str = "ptb:",
    context_types: ContextTypes[Any, Any, Any, Any] | None = None,
) -> int:
    """
    Copy what a `PicklePersistence` kept to where a `BotSessionPersistence` finds it; the file stays as it is.

    Only plain data is taken: dicts, lists, tuples, sets, scalars, dates. Nothing in the file can run code.

    Args:
        path: The file; or, if there were several (``single_file=False``), what their names begin with.
        storage: Where to.
        prefix: As `BotSessionPersistence`.
        context_types: As `BotSessionPersistence`.

    Returns:
        How many documents were written.

    Raises:
        FileNotFoundError: There is no such file.
        DecodeError: It is no pickle of plain data. Nothing was written.
        EncodeError: It holds something that would not come back, a message for instance; it says where. Nothing was
            written.
        ConflictError: Something is there already, and stays.
        StorageError: The storage could not be written.
    """
    data = await asyncio.to_thread(_read, Path(path))
    persistence = BotSessionPersistence(storage, prefix=prefix, context_types=context_types, close_storage=False)
    for user_id, user_data in (data["user_data"] or {}).items():
        persistence.keep("user_data", user_id, user_data)
    for chat_id, chat_data in (data["chat_data"] or {}).items():
        persistence.keep("chat_data", chat_id, chat_data)
    persistence.keep("bot_data", THE_ONE, data["bot_data"])
    persistence.keep("callback_data", THE_ONE, data["callback_data"] or None)
    for name, states in (data["conversations"] or {}).items():
        for key, state in states.items():
            persistence.keep("conversation", persistence.name_of(name, key), state)
    await storage.open()
    written = len(persistence.unsaved)
    await persistence.flush()
    return written


def _read(path: Path) -> dict[str, Any]:
    if path.exists():
        whole = _unpickle(path)
        if not isinstance(whole, dict):
            raise DecodeError(f"{path.name} is no file of PicklePersistence: it holds no dict")
        return {part: whole.get(part) for part in PARTS}
    files = {part: path.with_name(f"{path.name}_{part}") for part in PARTS}
    if not any(file.exists() for file in files.values()):
        raise FileNotFoundError(f"there is neither {path} nor {path}_user_data")
    return {part: _unpickle(file) if file.exists() else None for part, file in files.items()}


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _PlainUnpickler(file).load()
        except DecodeError as error:
            raise DecodeError(f"{path.name} {error.args[0]}") from None
        except Exception as error:  # A broken pickle raises nearly anything.
            raise DecodeError(f"{path.name} is no pickle, or a broken one: {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows `PLAIN`; what python-telegram-bot wrote of its own classes comes back as a note that it was there."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in PLAIN:
            return PLAIN[f"{module}.{name}"]
        if module == "telegram" or module.startswith("telegram."):
            return (
                _reconstructed if name == "_reconstruct_to" else type(name, (_OfTelegram,), {"__module__": "telegram"})
            )
        raise DecodeError(f"holds a {module}.{name}, which is no plain data")

    def persistent_load(self, pid: Any) -> None:
        """Leave out the bot, in whose place python-telegram-bot has put a marker."""


class _OfTelegram:
    """In place of an object of python-telegram-bot: no codec takes it, and the error tells its class and place."""

    def __init__(self, *_: Any) -> None:
        pass


def _reconstructed(kind: Any, _: Any) -> _OfTelegram:
    return cast("_OfTelegram", kind())
