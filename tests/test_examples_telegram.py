"""The pizza bot on python-telegram-bot and on pyTelegramBotAPI, run as programs: they remember."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def chat(program, folder, *lines):
    """Type lines to a bot, end the input, and return what it answered."""
    environment = {name: value for name, value in os.environ.items() if name != "BOT_TOKEN"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        cwd=folder,
        env=environment | {"PYTHONUTF8": "1"},
        input="\n".join([*lines, ""]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )

    assert 0 == done.returncode, done.stderr
    return done.stdout.splitlines()[1:]


@pytest.mark.parametrize("program", ["pizza_telegram.py", "pizza_telebot.py"])
def test_it_counts_and_remembers_at_the_second_start(tmp_path, program):
    pytest.importorskip(program.removeprefix("pizza_").removesuffix(".py"))

    assert ["Yum! That makes 2 🍕", "So far: 2 🍕"] == chat(program, tmp_path, "🍕🍕", "/hunger")
    assert ["Yum! That makes 3 🍕", "Pizza? What pizza?", "So far: 0 🍕"] == chat(
        program, tmp_path, "🍕", "/forget", "/hunger"
    )
    assert ["So far: 0 🍕"] == chat(program, tmp_path, "/hunger")


def test_what_a_handler_counted_before_it_raised_is_not_remembered(tmp_path):
    pytest.importorskip("telegram")

    assert ["🍍 on pizza? That never happened.", "So far: 0 🍕"] == chat(
        "pizza_telegram.py", tmp_path, "🍕🍍", "/hunger"
    )
