"""Types are part of the interface: mypy, strict, over the sources and over what bot authors write."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(300)
def test_sources_and_typing_tests_are_clean_under_mypy_strict():
    folders = ["core/src", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("packages/*/src")), "typing_tests"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stdout + done.stderr
