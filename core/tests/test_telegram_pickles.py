"""What PicklePersistence kept is brought along, by an unpickler that runs nobody's code."""

import pickle
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from bot_session import ConflictError, DecodeError, EncodeError, MemoryStorage

pytest.importorskip("telegram")

from bot_session.frameworks.telegram import BotSessionPersistence, import_pickle
from telegram import Bot, Chat, User
from telegram.ext import ExtBot, PicklePersistence

USER_DATA = {7: {"count": 1, 2: {(3, "x"), None}}, 8: {"when": [datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1)]}}
CHAT_DATA = {-100: {"price": Decimal("1.50"), "id": UUID(int=7), "raw": b"\x00", "life": timedelta(1)}}
CALLBACK_DATA = ([("keyboard", 1.5, {"button": {"slice": 1}})], {"query": "keyboard"})


async def pickled(path, *, single_file=True, user_data=USER_DATA):
    """Write a file as python-telegram-bot does."""
    persistence = PicklePersistence(path, single_file=single_file)
    persistence.set_bot(ExtBot("42:TEST", arbitrary_callback_data=True))
    for user_id, data in user_data.items():
        await persistence.update_user_data(user_id, data)
    for chat_id, data in CHAT_DATA.items():
        await persistence.update_chat_data(chat_id, data)
    await persistence.update_bot_data({"users": {7, 8}})
    await persistence.update_callback_data(CALLBACK_DATA)
    await persistence.update_conversation("order", (7, 7), "size")
    await persistence.update_conversation("order", (8, "inline"), (1, 2))
    await persistence.flush()
    return path


@pytest.fixture
def storage():
    return MemoryStorage()


@pytest.mark.parametrize("single_file", [True, False])
async def test_all_of_it_is_there(storage, tmp_path, single_file):
    assert 7 == await import_pickle(await pickled(tmp_path / "bot", single_file=single_file), storage)

    persistence = BotSessionPersistence(storage)
    assert USER_DATA == await persistence.get_user_data()
    assert CHAT_DATA == await persistence.get_chat_data()
    assert {"users": {7, 8}} == await persistence.get_bot_data()
    assert CALLBACK_DATA == await persistence.get_callback_data()
    assert {(7, 7): "size", (8, "inline"): (1, 2)} == await persistence.get_conversations("order")


async def test_what_is_there_already_stays(storage, tmp_path):
    await storage.write("ptb:user_data:7", "{}")
    with pytest.raises(ConflictError):
        await import_pickle(await pickled(tmp_path / "bot"), storage)

    assert "{}" == (await storage.read("ptb:user_data:7")).value


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


class Mine:
    pass


@pytest.mark.parametrize("value", [Evil(), Mine(), defaultdict(list), Mine, eval])
async def test_what_is_no_plain_data_is_refused_and_runs_nothing(storage, tmp_path, capsys, value):
    (tmp_path / "bot").write_bytes(pickle.dumps({"user_data": {7: {"x": value}}}))
    with pytest.raises(DecodeError, match=r"bot holds a .*, which is no plain data"):
        await import_pickle(tmp_path / "bot", storage)

    assert "" == capsys.readouterr().out
    assert [] == [key async for key in storage.read_all_keys()]


@pytest.mark.parametrize("value", [User(7, "Ada", False), Chat(7, "private", api_kwargs={"x": 1}), Bot("42:TEST")])
async def test_objects_of_telegram_are_refused_with_their_place(storage, tmp_path, value):
    user_data = {7: {"seen": [value]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("telegram.ext._picklepersistence.warn", lambda *_, **__: None)
        path = await pickled(tmp_path / "bot", user_data=user_data)
    if isinstance(value, Bot):
        await import_pickle(path, storage)  # python-telegram-bot, too, brings back None in place of another bot
        assert {"seen": [None]} == (await BotSessionPersistence(storage).get_user_data())[7]
        return
    with pytest.raises(
        EncodeError, match=rf"'ptb:user_data:7': data\['seen'\]\[0\] is a telegram.{type(value).__name__}"
    ):
        await import_pickle(path, storage)

    assert [] == [key async for key in storage.read_all_keys()]


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1]), pickle.dumps({"a": 1})[:-3]])
async def test_a_file_that_is_no_pickle_of_theirs_is_refused(storage, tmp_path, content):
    (tmp_path / "bot").write_bytes(content)
    with pytest.raises(DecodeError, match="bot"):
        await import_pickle(tmp_path / "bot", storage)


async def test_a_file_that_is_not_there_is_no_empty_one(storage, tmp_path):
    with pytest.raises(FileNotFoundError):
        await import_pickle(tmp_path / "bot", storage)
