"""Hold every broken storage to the contract, and print which test caught it."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest

from . import BROKEN

SUITE = "bot_session.testing.broken.suite"


class Failures:
    """A pytest plugin that remembers which test functions of which classes failed on their own account."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure; one in a fixture proves nothing."""
        if report.when == "call" and report.failed:
            _, test_class, function = report.nodeid.split("::", 2)
            self.names.add((test_class.removeprefix("Test"), function.partition("[")[0]))


def main() -> int:
    """Print the table, and return 1 if a fault went unnoticed."""
    failures = Failures()
    tests = [f"{SUITE}::Test{broken.__name__}::{broken.caught_by}" for broken in BROKEN]
    options = ["-p", "no:cacheprovider", "-c", os.devnull, "-o", "asyncio_default_fixture_loop_scope=function"]
    with redirect_stdout(StringIO()) as output:
        outcome = pytest.main([*options, "--tb=native", "--pyargs", *tests], plugins=[failures])
    if outcome not in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.OK}:
        sys.stderr.write(f"{output.getvalue()}\nthe tests could not be run: {outcome!r}\n")
        return 2
    rows = [("storage", "fault", "caught by", "")]
    for broken in BROKEN:
        caught = (broken.__name__, broken.caught_by) in failures.names
        fault = (broken.__doc__ or "").strip()
        rows.append((broken.__name__, fault, broken.caught_by, "✓" if caught else "✗"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    missed = sum(row[-1] == "✗" for row in rows)
    sys.stdout.write(f"\n{len(BROKEN) - missed} of {len(BROKEN)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
