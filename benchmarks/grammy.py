"""grammY, the library whose sessions ours are modelled on, with its own adapters, in a Node of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .workload import Contender, Cost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .workload import Work

__all__ = ["contender"]

_HERE = Path(__file__).parent
_PACKAGES = _HERE.parent / "tests" / "other_languages" / "package.json"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bot-session"
_LINE = 1 << 20


class _Node(Contender):
    works: frozenset[Work] = frozenset({"change", "new"})
    most_in_flight = 1_000
    name = "grammY"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, work: Work, keys: Sequence[str], in_flight: int) -> Cost:  # noqa: ARG002 - the keys tell
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None  # noqa: S101
        assert answers is not None  # noqa: S101
        requests.write(json.dumps({"keys": keys, "inFlight": in_flight}).encode() + b"\n")
        await requests.drain()
        answer = json.loads(await answers.readline())
        return Cost(len(keys), answer["seconds"], answer["cpu"])


@asynccontextmanager
async def contender(storage: str, place: str) -> AsyncIterator[Contender | None]:
    """Give grammY's session middleware on its adapter for a storage; None without Node, npm or the npm registry."""
    folder = await asyncio.to_thread(_packages)
    if folder is None or storage == "sqlite":
        yield None
        return
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", _HERE / "grammy.mjs", storage, place, cwd=folder, stdin=pipe, stdout=pipe, limit=_LINE
    )
    try:
        yield _Node(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _packages() -> Path | None:
    """Return a folder in which Node finds the packages that the tests with grammY use as well."""
    npm, wanted = shutil.which("npm"), _PACKAGES.read_bytes()
    if npm is None or shutil.which("node") is None:
        return None
    folder = _CACHE / f"npm-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if not folder.exists():
        building = folder.with_suffix(f".{os.getpid()}")
        building.mkdir(parents=True)
        (building / "package.json").write_bytes(wanted)
        quietly = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        if subprocess.run([npm, "install", *quietly], cwd=building, check=False, capture_output=True).returncode:  # noqa: S603
            shutil.rmtree(building)
            return None
        building.rename(folder)
    return folder
