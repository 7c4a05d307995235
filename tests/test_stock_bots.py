"""Bots that aiogram and python-telegram-bot publish as examples remember, for no more than another storage line."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from bot_session.testing.botapi import ADA, FakeBotAPI, callback_query, person

UPSTREAM = Path(__file__).parent / "upstream"

AIOGRAM = """\
from os import environ
from aiogram.fsm.storage.base import DefaultKeyBuilder
from bot_session import open_storage
from bot_session.frameworks.aiogram import SessionFSMStorage
"""
FORM = {
    "dp = Dispatcher()": 'dp = Dispatcher(storage=SessionFSMStorage(open_storage(environ["STORAGE"])))',
}
QUIZ = {
    "        events_isolation=SimpleEventIsolation(),": """\
        events_isolation=SimpleEventIsolation(),
        storage=SessionFSMStorage(open_storage(environ["STORAGE"]), key_builder=DefaultKeyBuilder(with_destiny=True)),""",
}

TELEGRAM = """\
from os import environ
from bot_session import open_storage
from bot_session.frameworks.telegram import BotSessionPersistence, persist
"""
TOKEN = {'"TOKEN"': 'environ["BOT_TOKEN"]'}  # As the bots themselves say.
PERSISTENT = TOKEN | {
    'PicklePersistence(filepath="conversationbot")': 'BotSessionPersistence(open_storage(environ["STORAGE"]))',
}
BUTTONS = TOKEN | {
    'PicklePersistence(filepath="arbitrarycallbackdatabot")': 'BotSessionPersistence(open_storage(environ["STORAGE"]))',
}
# This one has no persistence of its own: here is what the library's documentation tells to add.
NESTED = TOKEN | {
    "Application.builder()": 'persist(Application.builder(), BotSessionPersistence(open_storage(environ["STORAGE"])))',
    "description_conv = ConversationHandler(": 'description_conv = ConversationHandler(name="a", persistent=True,',
    "add_member_conv = ConversationHandler(": 'add_member_conv = ConversationHandler(name="b", persistent=True,',
    "    conv_handler = ConversationHandler(": '    conv_handler = ConversationHandler(name="c", persistent=True,',
}
# To survive being killed as well, one more line: the builder's.
AT_ONCE = {"Application.builder()": "persist(Application.builder(), persistence)"}


class Conversation:
    """What a user says to a bot, and what comes back, however often the bot is started anew."""

    def __init__(self, program: Path, storage: str, end: signal.Signals, greetings: int) -> None:
        self.program = program
        self.storage = storage
        self.end = end
        self.greetings = greetings
        self.api = FakeBotAPI(patience=60)
        self.strangers = itertools.count(1000)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the bot's program."""
        with (self.program.parent / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(UPSTREAM / "run.py"),
                str(self.program),
                self.api.url,
                env=os.environ | {"BOT_TOKEN": self.api.token, "STORAGE": self.storage},
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> None:
        """End it, in the manner of this test, when it is done with what was said: it has begun with the next update."""
        await self.say("/start", self.greetings, user=person(next(self.strangers), "Stranger"))
        await self.api.delivered()
        self.process.send_signal(self.end)
        status, self.process = await self.process.wait(), None
        log = (self.program.parent / "log").read_text()
        assert (0 if self.end == signal.SIGTERM else -self.end) == status, log
        assert "Traceback" not in log, log

    async def say(self, text: str, answers: int = 1, user: dict[str, Any] = ADA) -> list[str]:
        """Send a message, and return the bot's answers."""
        before = len(self.api.sent)
        await self.api.ask(text, user=user)
        return [call.text for call in (await self.api.answered(before + answers))[before:]]

    async def press(self, button: str) -> str:
        """Press a button of the latest keyboard, and return what the message becomes."""
        mine = (call.fields for call in reversed(self.api.sent) if call.chat_id == ADA["id"])
        rows = next(fields["reply_markup"]["inline_keyboard"] for fields in mine if "reply_markup" in fields)
        found = {each["text"]: each["callback_data"] for row in rows for each in row}
        before = len(self.api.sent)
        await self.api.feed(callback_query(found[button]))
        calls = await self.api.answered(before + 2)
        assert "answerCallbackQuery" == calls[before].method
        return calls[before + 1].text


@pytest.fixture(params=["stopped", "killed"])
def end(request):
    """How a bot ends."""
    return signal.SIGTERM if request.param == "stopped" else signal.SIGKILL


@pytest.fixture
async def talk(make_url, tmp_path, end):
    """A function that runs a published bot with lines swapped."""
    talks = []

    async def talk(program, imports, swaps, greetings=1):
        text = (UPSTREAM / program).read_text()
        for old, new in swaps.items():
            assert 1 == text.count(old), old
            text = text.replace(old, new)
        changed = tmp_path / program
        changed.parent.mkdir()
        changed.write_text(imports + text)
        talks.append(Conversation(changed, make_url("redis" if end == signal.SIGTERM else "sqlite"), end, greetings))
        await talks[-1].api.__aenter__()
        await talks[-1].start()
        return talks[-1]

    yield talk
    for each in talks:
        if each.process is not None:
            each.process.kill()
            await each.process.wait()
        await each.api.__aexit__(None, None, None)


class TestAiogram:
    @pytest.fixture(autouse=True)
    def needs_it(self):
        pytest.importorskip("aiogram")

    async def test_its_form_goes_on_where_it_was(self, talk):
        bot = await talk("aiogram/finite_state_machine.py", AIOGRAM, FORM)

        assert ["Hi there! What's your name?"] == await bot.say("/start")
        assert ["Nice to meet you, Ada!\nDid you like to write bots?"] == await bot.say("Ada")
        await bot.stop()
        await bot.start()
        assert ["Cool! I'm too!\nWhat programming language did you use for it?"] == await bot.say("Yes")
        assert ["I'll keep in mind that, Ada, you like to write bots with C."] == await bot.say("C")
        await bot.stop()

    async def test_its_quiz_knows_the_answers_and_the_way_back(self, talk):
        bot = await talk("aiogram/quiz_scene.py", AIOGRAM, QUIZ)

        assert ["Welcome to the quiz!", "What is the capital of France?"] == await bot.say("/quiz", 2)
        assert ["What is the capital of Spain?"] == await bot.say("Paris")
        assert ["What is the capital of Germany?"] == await bot.say("Madrid")
        await bot.stop()
        await bot.start()
        assert ["What is the capital of Spain?"] == await bot.say("🔙 Back")
        assert ["What is the capital of Germany?"] == await bot.say("London")
        [summary] = await bot.say("🚫 Exit")
        assert "France? (✅ Paris)\n2. What is the capital of Spain? (❌ London)" in summary
        assert "Correct: 1\nIncorrect: 4" in summary
        await bot.stop()


class TestTelegram:
    @pytest.fixture(autouse=True)
    def needs_it(self):
        pytest.importorskip("telegram")

    async def test_its_persistent_conversation_goes_on_and_user_data_stays(self, talk, end):
        at_once = AT_ONCE if end == signal.SIGKILL else {}
        bot = await talk("telegram/persistentconversationbot.py", TELEGRAM, PERSISTENT | at_once)

        [greeting] = await bot.say("/start")
        assert "I will hold a more complex conversation with you." in greeting
        assert ["Your age? Yes, I would love to hear about that!"] == await bot.say("Age")
        await bot.stop()
        await bot.start()
        [told] = await bot.say("36")
        assert "\nage - 36\n" in told
        await bot.stop()
        await bot.start()
        assert ["I learned these facts about you: \nage - 36\nUntil next time!"] == await bot.say("Done")
        [greeting] = await bot.say("/start")
        assert "You already told me your age." in greeting
        await bot.stop()

    async def test_its_buttons_still_work(self, talk, end):
        at_once = AT_ONCE if end == signal.SIGKILL else {}
        bot = await talk("telegram/arbitrarycallbackdatabot.py", TELEGRAM, BUTTONS | at_once)

        assert ["Please choose:"] == await bot.say("/start")
        await bot.stop()
        await bot.start()
        assert "So far you've selected [2]. Choose the next item:" == await bot.press("2")
        await bot.stop()
        await bot.start()
        assert "So far you've selected [2, 5]. Choose the next item:" == await bot.press("5")
        await bot.stop()

    async def test_its_nested_conversation_is_as_deep_as_before(self, talk):
        bot = await talk("telegram/nestedconversationbot.py", TELEGRAM, NESTED, greetings=2)

        await bot.say("/start", 2)
        assert "You may add a parent or a child." in await bot.press("Add family member")
        await bot.press("Add parent")
        assert "Please select a feature to update." == await bot.press("Add Mother")
        assert "Okay, tell me." == await bot.press("Name")
        await bot.stop()
        await bot.start()
        assert ["Got it! Please select a feature to update."] == await bot.say("Grace")
        await bot.press("Done")
        await bot.stop()
        await bot.start()
        assert "Parents:\nMother: Name: Grace, Age: -" in await bot.press("Show data")
        await bot.stop()
