"""
What an update costs this library itself, in instructions of the processor: the same on a quiet and a busy machine.

``python -m benchmarks.budget`` counts them with valgrind and prints them beside those of ``budget.json``; ``--write``
replaces these. To be compared by hand after a change to the path of an update; no test fails by it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_session import MemoryStorage, Sessions
from bot_session.batching import BatchedStorage
from bot_session.wrappers import RetryingStorage

from . import bare
from .workload import Profile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["main"]

_STORED = Path(__file__).with_name("budget.json")
_KEYS = [str(number) for number in range(100)]
_FEW, _MANY = 100, 400


async def _update(count: int, step: Callable[[str], Awaitable[object]], in_flight: int) -> None:
    keys = islice(cycle(_KEYS), count)

    async def one_by_one() -> None:
        for key in keys:
            await step(key)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(one_by_one())


def _ours(storage: Any) -> dict[str, Callable[[str], Awaitable[object]]]:
    plain: Sessions[dict[str, int]] = Sessions(storage, initial=dict, type=dict[str, int], prefix="plain:")
    sessions = Sessions(storage, initial=Profile)

    async def change(key: str) -> None:
        async with sessions.open(key) as session:
            session.data.count += 1

    async def look(key: str) -> object:
        async with sessions.open(key) as session:
            return session.data

    async def lazy(key: str) -> None:
        async with sessions.open(key, lazy=True):
            pass

    async def count(key: str) -> None:
        async with plain.open(key) as session:
            session.data["count"] = session.data.get("count", 0) + 1

    return {"change": change, "look": look, "lazy": lazy, "change a small dict": count}


async def _work(case: str, count: int) -> None:
    where, _, work = case.partition(": ")
    if where == "dict + msgspec":
        async with bare.memory("") as contender:
            for _ in range(2):
                await contender.run("change", _KEYS, 1)
            await contender.run("change" if work == "change" else "look", _KEYS * (count // len(_KEYS)), 1)
        return
    memory = MemoryStorage()
    step = _ours(memory if where == "memory" else RetryingStorage(BatchedStorage(memory)))[work]
    together = re.search(r"(\d+) in flight", where)
    in_flight = int(together[1]) if together else 1
    await _update(2 * len(_KEYS), step, in_flight)
    await _update(count, step, in_flight)


CASES = [
    "dict + msgspec: change",
    "dict + msgspec: look",
    "memory: change",
    "memory: look",
    "memory: lazy",
    "memory: change a small dict",
    "batched, 1 in flight: change",
    "batched, 50 in flight: change",
]


def _instructions(case: str, count: int) -> int:
    """Count the instructions of a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable]
        done = subprocess.run(  # noqa: S603
            [*command, "-m", "benchmarks.budget", "--run", case, str(count)],
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind tells no count:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    """Count and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace what is stored")
    parser.add_argument("--only", help="cases with this in their name")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        asyncio.run(_work(options.run[0], int(options.run[1])))
        return
    stored: dict[str, int] = json.loads(_STORED.read_text()) if _STORED.exists() else {}
    found: dict[str, int] = {}
    for case in CASES:
        if options.only and options.only not in case:
            continue
        # What differs between a few and many updates is the updates' own: starting Python falls out.
        found[case] = (_instructions(case, _MANY) - _instructions(case, _FEW)) // (_MANY - _FEW)
        before = stored.get(case)
        change = "" if before is None else f"  before {before:>8,}  {found[case] / before - 1:+.1%}"
        sys.stdout.write(f"{case:33}{found[case]:>8,}{change}\n")
    if options.write:
        _STORED.write_text(json.dumps(stored | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
