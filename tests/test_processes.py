"""Several processes count in one session: nothing is lost, in every storage that processes can share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).with_name("increment.py"))
PROCESSES = 4
TIMES = int(os.environ.get("BOT_SESSION_TEST_INCREMENTS", "40"))
"""For each process; the environment may ask for more, as long as there is the time."""
PATIENCE = 2.5 * max(TIMES, 100)
"""Seconds in which the processes must be done: on a busy machine, with a server that is slow."""


def start(url, how, times):
    return subprocess.Popen(
        [sys.executable, SCRIPT, url, how, str(times)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def stored(open_url, url):
    storage = await open_url(url)
    return json.loads((await storage.read("counter")).value)["n"]


def finish(counting):
    """Return how often each process counted, which it says as it does."""
    outputs = [process.communicate(timeout=PATIENCE) for process in counting]

    assert ["" for _ in counting] == [errors for _, errors in outputs]
    return [said.count("+1") for said, _ in outputs]


@pytest.mark.timeout(PATIENCE + 60)
class TestCounting:
    @pytest.mark.parametrize("how", ["shared", "update"])
    async def test_every_increment_is_there(self, shared_url, open_url, how):
        counted = finish([start(shared_url, how, TIMES) for _ in range(PROCESSES)])

        assert [TIMES] * PROCESSES == counted
        assert PROCESSES * TIMES == await stored(open_url, shared_url)

    async def test_by_default_every_increment_that_did_not_raise_is_there(self, shared_url, open_url):
        counted = finish([start(shared_url, "default", TIMES) for _ in range(PROCESSES)])

        assert sum(counted) == await stored(open_url, shared_url)
        assert sum(counted) >= TIMES

    async def test_a_process_that_is_killed_keeps_nobody_waiting_and_loses_nothing(self, shared_url, open_url):
        first, *others = [start(shared_url, "shared", TIMES) for _ in range(PROCESSES)]
        said = [first.stdout.readline() for _ in range(3)]
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        said += first.stdout.readlines()
        first.communicate()
        counted = finish(others)
        total = await stored(open_url, shared_url)

        assert [TIMES] * len(others) == counted
        # The one that it may have been writing when it died may be there or not.
        assert 0 <= total - sum(counted) - said.count("+1\n") <= 1
        assert time.monotonic() - killed < PATIENCE
