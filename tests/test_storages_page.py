"""docs/storages.md says what the reports say, and its commands find tests."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/storages.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in sorted(set(re.findall(r"`pytest ([^`]+)`", PAGE)))]
CAPABILITIES = runpy.run_path(str(ROOT / "docs/capabilities.py"))


def test_the_table_is_made_from_the_reports():
    assert len(CAPABILITIES["load"]()) == 7
    assert CAPABILITIES["update"](PAGE) == PAGE


def test_every_storage_keeps_the_contract():
    levels = {name: report["level"] for name, report in CAPABILITIES["load"]().items()}

    assert levels == dict.fromkeys(levels, "Conformant")


@pytest.fixture(scope="module")
def collected():
    """What pytest finds where the commands look."""
    options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    places = sorted({arguments[0] for arguments in COMMANDS if not arguments[0].startswith("packages/")})
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *places], check=True, cwd=ROOT, capture_output=True, text=True
    )
    return run.stdout.splitlines()


@pytest.mark.parametrize("arguments", COMMANDS, ids=shlex.join)
def test_the_commands_of_the_page_find_tests(arguments, collected):
    place, words = arguments[0], arguments[2].split(" or ") if "-k" in arguments else [""]
    found = [test for test in collected if test.startswith(place)]

    assert [] == [word for word in words if not any(word in test for test in found)]
