"""The pizza bot of the README, run as a newcomer runs it."""

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from bot_session import open_storage

EXAMPLES = Path(__file__).parents[1] / "examples"
BOT = [sys.executable, str(EXAMPLES / "pizza_aiogram.py")]
TOTALS = re.compile(r"(?:makes|So far:) (\d+)")


@pytest.fixture(name="environment")
def without_a_token():
    return {name: value for name, value in os.environ.items() if name != "BOT_TOKEN"} | {"PYTHONUNBUFFERED": "1"}


def play(tmp_path, environment, *arguments):
    done = subprocess.run(
        [*BOT, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "" == done.stderr
    assert 0 == done.returncode
    return done.stdout


class TestPlaying:
    def test_it_plays_recorded_updates_and_remembers_at_the_second_start(self, tmp_path, environment):
        first = play(tmp_path, environment)
        second = play(tmp_path, environment)

        assert ["2", "1", "4", "2", "4", "1", "3", "3"] == TOTALS.findall(first)
        assert ["5", "5", "8", "5", "8", "2", "6", "6"] == TOTALS.findall(second)
        assert (tmp_path / "pizza.db").exists()

    def test_what_a_handler_counted_before_it_raised_is_not_remembered(self, tmp_path, environment):
        output = play(tmp_path, environment)

        assert "🍍 on pizza? That never happened." in output
        assert output.rstrip().splitlines()[-2].endswith("So far: 3 🍕")

    def test_the_storage_is_swapped_by_an_option(self, tmp_path, environment):
        play(tmp_path, environment, "--storage", f"file:{tmp_path}/sessions")
        second = play(tmp_path, environment, "--storage", f"file:{tmp_path}/sessions")

        assert "5" == TOTALS.findall(second)[0]
        assert not (tmp_path / "pizza.db").exists()

    def test_the_recording_has_every_kind_of_update_that_it_promises(self):
        updates = json.loads((EXAMPLES / "updates.json").read_text("utf-8"))
        kinds = {kind for update in updates for kind in update if kind != "update_id"}
        in_group = {
            event["from"]["id"]
            for update in updates
            for event in update.values()
            if isinstance(event, dict) and event.get("chat", {}).get("type") == "supergroup"
        }

        assert {"message", "channel_post", "inline_query", "edited_message"} == kinds
        assert 2 == len(in_group)


@pytest.mark.timeout(400)
class TestBeingKilled:
    def test_no_answered_update_is_lost(self, tmp_path, environment):
        """Kill the bot as soon as an answer is seen, again and again: what it said is what it knows."""
        messages = [
            {
                "update_id": number,
                "message": {
                    "message_id": number,
                    "date": 1,
                    "from": {"id": 1, "is_bot": False, "first_name": "Ada"},
                    "chat": {"id": 1, "type": "private", "first_name": "Ada"},
                    "text": "🍕",
                },
            }
            for number in range(1, 200)
        ]
        (tmp_path / "many.json").write_text(json.dumps(messages), "utf-8")
        answered = 0
        for lines in (1, 5, 12):
            bot = subprocess.Popen(
                [*BOT, "--play", "many.json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
            )
            with bot:
                for _ in range(lines):
                    while not (found := TOTALS.search(bot.stdout.readline())):
                        assert bot.poll() is None
                    assert int(found[1]) > answered
                    answered = int(found[1])
                bot.kill()
                for line in bot.stdout:  # What it said before it died was said too.
                    if found := TOTALS.search(line):
                        answered = int(found[1])

        assert answered <= asyncio.run(self._stored(tmp_path))
        assert answered >= 18

    async def _stored(self, tmp_path):
        async with open_storage(f"sqlite:{tmp_path}/pizza.db") as storage:
            return json.loads((await storage.read("1")).value)["pizzas"]


@pytest.mark.timeout(400)
class TestChatting:
    def test_a_person_types_and_it_answers(self, tmp_path, environment):
        assert "That makes 2 🍕" in self._chat(tmp_path, environment, "🍕🍕", "/hunger")
        assert "So far: 2 🍕" in self._chat(tmp_path, environment, "/hunger")
        assert "Pizza? What pizza?" in self._chat(tmp_path, environment, "/forget")
        assert "So far: 0 🍕" in self._chat(tmp_path, environment, "/hunger")

    def _chat(self, tmp_path, environment, *lines):
        """Type a line at every prompt, and Ctrl-D at the last one."""
        ours, theirs = pty.openpty()
        bot = subprocess.Popen(BOT, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        typing = [f"{line}\n".encode() for line in lines] + [b"\x04"]
        screen = b""
        try:
            while select.select([ours], [], [], 90)[0]:
                try:
                    screen += os.read(ours, 65_536)
                except OSError:  # Linux says so when the other side is gone.
                    break
                if typing and screen.count(b"you  ") > len(lines) + 1 - len(typing):
                    os.write(ours, typing.pop(0))

            assert 0 == bot.wait(30)
        finally:
            bot.kill()
            bot.wait()
            os.close(ours)
        return screen.decode(errors="replace")
