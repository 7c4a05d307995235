import json
import os
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def conformance(tmp_path):
    """Run tests with the report plugin and return what it wrote."""

    def run(*tests):
        command = [sys.executable, "-m", "pytest", "-p", "bot_session.testing.report", "--pyargs", *tests]
        command += ["-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider", "-c", os.devnull]
        subprocess.run([*command, "--bot-session-report", str(tmp_path)], capture_output=True, check=False)
        [file] = tmp_path.glob("*/conformance.json")
        return json.loads(file.read_text())

    return run


MEMORY = str(Path(__file__).with_name("test_memory_contract.py"))


def test_the_report_calls_conformant_what_passed_everything(conformance):
    report = conformance(MEMORY)

    assert report["level"] == "Conformant"
    assert report["storage"] == "bot_session.memory.MemoryStorage"
    assert report["capabilities"]["shared"] is False
    assert "test_case_is_told_apart" in report["passed"]
    assert set(report["not_applicable"].values()) >= {"there is no connection", "nothing is durable here"}


def test_the_report_counts_what_was_left_out(conformance):
    report = conformance(MEMORY, "-k", "test_case_is_told_apart")

    assert report["passed"] == ["test_case_is_told_apart"]
    assert "test_delete_removes_and_says_whether_there_was_anything" in report["not_run"]
    assert report["level"] == f"Partial ({len(report['not_run'])} skipped)"


def test_the_report_counts_what_was_overridden(conformance, tmp_path):
    lenient = tmp_path / "test_lenient.py"
    override = "    async def test_case_is_told_apart(self):\n        pass\n"
    lenient.write_text(Path(MEMORY).read_text(encoding="utf-8") + "\n" + override, encoding="utf-8")
    report = conformance(str(lenient))

    assert report["level"] == "Partial (1 skipped)"
    assert report["overridden"] == ["test_case_is_told_apart"]


def test_the_report_names_what_failed(conformance):
    suite = "bot_session.testing.broken.suite::TestHasSeesExpired"
    report = conformance(f"{suite}::test_expired_is_absent_for_has", f"{suite}::test_case_is_told_apart")

    assert report["level"] == "Failing"
    assert report["failed"] == ["test_expired_is_absent_for_has"]
    assert report["passed"] == ["test_case_is_told_apart"]
