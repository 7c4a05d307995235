"""
Search for input that breaks a promise: ``python fuzz/run.py NAME [SECONDS]``, or with no name all in turn.

Coverage-guided, by atheris (libFuzzer). What it finds is written to ``fuzz/found/NAME/``, where every test run tries it
again; what it learns stays in ``fuzz/.corpus`` for the next time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bot_session", "bot_session_storage_file", "bot_session_storage_sqlite"]):
    from targets import TARGETS

HERE = Path(__file__).parent


def search(name: str, seconds: int) -> None:
    """Fuzz one target; never returns."""
    found, corpus, seeds = (HERE / folder / name for folder in ("found", ".corpus", "seeds"))
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", "-max_len=4096", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, f"-dict={HERE / 'words.dict'}", str(corpus), str(seeds)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Search as the arguments say."""
    names = [word for word in sys.argv[1:] if not word.isdigit()]
    seconds = next((int(word) for word in sys.argv[1:] if word.isdigit()), 30)
    if len(names) == 1:
        search(names[0], seconds)
    # LibFuzzer ends its process, so each target has one of its own.
    runs = [subprocess.run([sys.executable, __file__, name, str(seconds)], check=False) for name in names or TARGETS]
    return int(any(run.returncode for run in runs))


if __name__ == "__main__":
    sys.exit(main())
