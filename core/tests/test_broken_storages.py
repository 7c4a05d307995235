import os
import re
import subprocess
import sys

import pytest
from bot_session.testing.broken import BROKEN
from bot_session.testing.broken.suite import SoundContract


class TestSound(SoundContract):
    """Without a fault there is nothing to catch."""


@pytest.fixture(scope="module")
def table():
    # A process of its own: pytest inside pytest would share loops, plugins and warnings.
    ran = subprocess.run(
        [sys.executable, "-m", "bot_session.testing.broken"],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    return ran.stdout.splitlines() or [ran.stderr]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_the_contract_catches(table, broken):
    [row] = [line for line in table if line.startswith(f"{broken.__name__} ")]

    assert re.split(" {2,}", row) == [broken.__name__, broken.__doc__, broken.caught_by, "✓"]


def test_all_are_caught(table):
    assert table[-1] == f"{len(BROKEN)} of {len(BROKEN)} caught"
