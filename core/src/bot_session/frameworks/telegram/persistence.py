"""
``user_data``, ``chat_data``, ``bot_data``, callback data and conversations of python-telegram-bot in any storage.

As with every persistence of python-telegram-bot, the data lives in memory, and is loaded when the application starts:
one process, which is the only one to write. For several processes, use sessions.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Literal

from telegram.ext import BasePersistence, ContextTypes, PersistenceInput

from bot_session.codec import Codec
from bot_session.errors import CodecError, ConflictError, StorageError, UnavailableError
from bot_session.frameworks.values import PythonCodec
from bot_session.storage import ABSENT, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bot_session.storage import Match, Storage, Version

__all__ = ["BotSessionPersistence", "Kind"]

Kind = Literal["user_data", "chat_data", "bot_data", "callback_data", "conversation"]

THE_ONE: Final = ""
"""The id of what there is one of: bot data and callback data."""


class BotSessionPersistence(BasePersistence[Any, Any, Any]):
    """
    A persistence of python-telegram-bot that keeps one document for each user, each chat and each conversation.

    With `persist` or `install` everything is saved before the next update of a sequential application begins. With a
    plain ``Application`` it works too, as well as that allows: every ``update_interval``.

    What could not be written is tried again with the next change, and when the application shuts down. A document that
    somebody else has changed meanwhile is never overwritten: `ConflictError` goes to the error handlers.

    Args:
        storage: Where.
        prefix: What keys begin with: ``ptb:user_data:42``.
        context_types: Those of the application, if its data are not dicts: dataclasses, for instance, come back typed.
            Dicts may hold whatever `bot_session.frameworks.values` lists.
        store_data: What to keep: see `telegram.ext.PersistenceInput`.
        update_interval: Seconds between saves of what changed outside of updates: in jobs, for instance.
        close_storage: Close the storage when the application shuts down.

    Attributes:
        unsaved: What is still to be written, as text by key; None is to be deleted.
        lock: See `save`.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        prefix: str = "ptb:",
        context_types: ContextTypes[Any, Any, Any, Any] | None = None,
        store_data: PersistenceInput | None = None,
        update_interval: float = 1.0,
        close_storage: bool = True,
    ) -> None:
        super().__init__(store_data, update_interval)
        types: ContextTypes[Any, Any, Any, Any] = context_types or ContextTypes()
        self.storage = storage
        self.prefix = prefix
        self.close_storage = close_storage
        self._made_by = {"user_data": types.user_data, "chat_data": types.chat_data, "bot_data": types.bot_data}
        self._codecs: dict[str, Codec[Any]] = {
            kind: PythonCodec() if made_by is dict else Codec(made_by) for kind, made_by in self._made_by.items()
        }
        self._codecs |= {"callback_data": PythonCodec(), "conversation": PythonCodec()}
        # What an entry is as long as nobody has put anything in: not worth a document.
        self._empty = {kind: self._codecs[kind].encode(made_by()) for kind, made_by in self._made_by.items()}
        self._stored: dict[str, tuple[str, Version]] = {}
        self.unsaved: dict[str, str | None] = {}
        self._perhaps: dict[str, set[str | None]] = {}  # What writes that were cut off may have left.
        self.lock = asyncio.Lock()

    # ------------------------------------------------------------------ saving

    def keep(self, kind: Kind, name: object, data: object | None) -> None:
        """
        Take note of what data is now, to be written by `save`; None deletes. Nobody can change it afterwards.

        Raises:
            EncodeError: It would not come back as it is. What is stored stays.
        """
        place = self._place(kind, name)
        codec = self._codecs[kind]
        try:
            text = None if data is None else codec.encode(data)
            if text is not None and text != self._text_of(place):
                codec.verify(data, text)
        except CodecError as error:
            error.key = place
            raise
        if text == self._empty.get(kind):
            text = None
        if text == self._text_of(place) and place not in self._perhaps:
            self.unsaved.pop(place, None)
        else:
            self.unsaved[place] = text

    async def save(self) -> list[Exception]:
        """
        Write what `keep` was given, at once, and return what went wrong. What may succeed later is kept for later.

        `keep` and this go together, under `lock`.
        """
        if not self.unsaved:
            return []
        try:
            return await self._write(dict(self.unsaved))
        except StorageError as error:
            if error.retryable:
                return [error]
        # One of them cannot be written at all, which must not keep the others from it.
        errors: list[Exception] = []
        for place, text in list(self.unsaved.items()):
            try:
                errors += await self._write({place: text})
            except StorageError as error:
                errors.append(error)
                if not error.retryable:
                    del self.unsaved[place]
        return errors

    async def _write(self, changes: dict[str, str | None]) -> list[Exception]:
        writes = [Write(place, text, match=self._match(place)) for place, text in changes.items()]
        try:
            results = await self.storage.write_many(writes)
        except (UnavailableError, asyncio.CancelledError) as error:
            if getattr(error, "outcome_unknown", True):
                for place, text in changes.items():
                    self._perhaps.setdefault(place, set()).add(text)
            raise
        failed: list[tuple[str, StorageError]] = []
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, StorageError):
                failed.append((write.key, result))
            else:
                self._note(write.key, write.value, result)
                del self.unsaved[write.key]
        return [told for place, error in failed for told in await self._settle(place, changes[place], error)]

    async def _settle(self, place: str, text: str | None, error: StorageError) -> list[Exception]:
        """Write once more on top of a write of ours that was cut off but has arrived; everything else is an error."""
        if isinstance(error, ConflictError) and (perhaps := self._perhaps.get(place)):
            record = await self.storage.read(place)
            value = None if record is None else record.value
            if value in perhaps:
                self._note(place, value, None if record is None else record.version)
                if text != value:
                    return await self._write({place: text})
                del self.unsaved[place]
                return []
        del self.unsaved[place]
        return [error]

    def _note(self, place: str, text: str | None, version: Any) -> None:
        """Remember what is certainly stored."""
        self._perhaps.pop(place, None)
        if text is None:
            self._stored.pop(place, None)
        else:
            self._stored[place] = text, version

    def _match(self, place: str) -> Match:
        stored = self._stored.get(place)
        return ABSENT if stored is None else stored[1]

    def _text_of(self, place: str) -> str | None:
        stored = self._stored.get(place)
        return None if stored is None else stored[0]

    def _place(self, kind: Kind, name: object) -> str:
        return f"{self.prefix}{kind}:{name}"

    # ------------------------------------------------------------------ loading

    async def _load(self, kind: Kind, name_prefix: str = "") -> dict[str, Any]:
        """Read all documents of a kind: their data by name."""
        await self.storage.open()
        found, start = {}, len(self._place(kind, ""))
        async for place, record in self.storage.read_all_entries(self._place(kind, name_prefix)):
            try:
                found[place[start:]] = self._codecs[kind].decode(record.value)
            except CodecError as error:
                error.key = place
                raise
            self._stored[place] = record.value, record.version
        return found

    async def get_user_data(self) -> dict[int, Any]:
        return {int(name): data for name, data in (await self._load("user_data")).items()}

    async def get_chat_data(self) -> dict[int, Any]:
        return {int(name): data for name, data in (await self._load("chat_data")).items()}

    async def get_bot_data(self) -> Any:
        found = await self._load("bot_data")
        return found[THE_ONE] if found else self._made_by["bot_data"]()

    async def get_callback_data(self) -> Any:
        return (await self._load("callback_data")).get(THE_ONE)

    async def get_conversations(self, name: str) -> dict[Any, Any]:
        found = await self._load("conversation", self.name_of(name, ()).removesuffix("]"))
        return {tuple(json.loads(key)[1:]): state for key, state in found.items()}

    async def refresh_user_data(self, user_id: int, user_data: Any) -> None:
        """Do nothing: memory is the truth. So do the others."""

    async def refresh_chat_data(self, chat_id: int, chat_data: Any) -> None:
        pass

    async def refresh_bot_data(self, bot_data: Any) -> None:
        pass

    # ------------------------------------------------------------------ for an Application that is not ours

    async def update_user_data(self, user_id: int, data: Any) -> None:
        await self._update("user_data", user_id, data)

    async def update_chat_data(self, chat_id: int, data: Any) -> None:
        await self._update("chat_data", chat_id, data)

    async def update_bot_data(self, data: Any) -> None:
        await self._update("bot_data", THE_ONE, data)

    async def update_callback_data(self, data: Any) -> None:
        await self._update("callback_data", THE_ONE, data)

    async def update_conversation(self, name: str, key: tuple[int | str, ...], new_state: object | None) -> None:
        await self._update("conversation", self.name_of(name, key), new_state)

    async def drop_user_data(self, user_id: int) -> None:
        await self._update("user_data", user_id, None)

    async def drop_chat_data(self, chat_id: int) -> None:
        await self._update("chat_data", chat_id, None)

    async def flush(self) -> None:
        """
        Write what is left, and close the storage: python-telegram-bot calls this when it shuts down.

        Raises:
            StorageError: Something could not be written.
        """
        try:
            async with self.lock:
                _raise_first(await self.save())
        finally:
            if self.close_storage:
                await self.storage.close()

    async def _update(self, kind: Kind, name: object, data: object | None) -> None:
        async with self.lock:
            self.keep(kind, name, data)
            _raise_first(await self.save())

    @staticmethod
    def name_of(conversation: str, key: Iterable[int | str]) -> str:
        """Name a conversation so that no other is called like it, nor begins like it."""
        return json.dumps([conversation, *key], separators=(",", ":"), ensure_ascii=False)


def _raise_first(errors: list[Exception]) -> None:
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"another document failed too: {other!r}")
        raise errors[0]
