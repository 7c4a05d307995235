"""Measuring: everybody does a little of each kind of work in turn, and again, so that all have the same weather."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import grammy, ours
from .bare import CONTENDERS
from .peers import PEERS
from .servers import SERVED, running
from .workload import KEYS, Contender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from .workload import Cost, Work

__all__ = ["STORAGES", "Series", "compare", "place", "url_for"]

STORAGES = tuple(CONTENDERS)
IN_FLIGHT: dict[Work, tuple[int, ...]] = {
    "change": (1, 100, 1_000),
    "look": (1, 100, 1_000),
    "new": (100,),
    "lazy": (100,),
}
"""The kinds of work, each with the numbers of updates in flight."""
_FEWEST = 3


@dataclass
class Series:
    """What one contender took for one kind of work, round by round."""

    storage: str
    contender: str
    work: Work
    in_flight: int
    costs: list[Cost] = field(default_factory=list)


@contextlib.contextmanager
def place(storage: str) -> Iterator[tuple[str, str]]:
    """Give what the bare driver is made of (a server's URL, a path), and the server's version."""
    if storage in SERVED:
        with running(storage) as server:
            yield server.url, server.version
    else:
        with tempfile.TemporaryDirectory(prefix=f"bench-{storage}-", dir=Path.cwd()) as folder:
            yield f"{folder}/bare", "in this process"


def url_for(storage: str, where: str) -> str:
    """Return the URL of our storage beside the bare driver's place."""
    if storage == "memory":
        return "memory:"
    if storage in SERVED:
        return where + {"redis": "", "postgres": "?table=ours", "mongo": "&collection=ours"}[storage]
    return f"{storage}:{where}-ours"


@contextlib.asynccontextmanager
async def _contenders(storage: str, where: str, stored: Sequence[str] = KEYS) -> AsyncIterator[list[Contender]]:
    async with contextlib.AsyncExitStack() as stack:
        node = grammy.contender(storage, f"{where}-grammy" if storage == "file" else where)
        peers = [peer(where) for peer in PEERS.get(storage, [])]
        makers: list[AbstractAsyncContextManager[Contender | None]]
        own = ours.contender(url_for(storage, where), "ours:" if storage == "redis" else "")
        makers = [own, CONTENDERS[storage](where), *peers, node]
        entered: list[Contender | None] = [await stack.enter_async_context(maker) for maker in makers]
        found = [contender for contender in entered if contender is not None]
        for contender in found:
            await contender.fill(stored)
        yield found


async def compare(
    storage: str, where: str, *, rounds: int, seconds: float, stored: Sequence[str] = KEYS
) -> list[Series]:
    """
    Let everybody do everything: ours first in the results, then the bare driver, then the peers.

    Args:
        storage: Which.
        where: As `place` gives it.
        rounds: How often.
        seconds: How long each piece of work is to take.
        stored: The keys of the sessions that are there.
    """
    async with _contenders(storage, where, stored) as contenders:
        tasks = [
            (contender, Series(storage, contender.name, work, in_flight))
            for work, levels in IN_FLIGHT.items()
            for in_flight in levels
            for contender in contenders
            if work in contender.works and in_flight <= contender.most_in_flight
        ]
        keys = _Keys(stored)
        sizes = [await _size(contender, series, keys, seconds) for contender, series in tasks]
        for turn in range(rounds):
            # Back and forth, so that nobody always comes after the same.
            order = list(zip(tasks, sizes, strict=True))
            for (contender, series), size in order if turn % 2 else reversed(order):
                series.costs.append(await _once(contender, series, keys, size))
        return [series for _, series in tasks]


class _Keys:
    """Keys for every kind of work: the stored ones round and round, new ones each only once."""

    def __init__(self, stored: Sequence[str] = KEYS) -> None:
        self._stored = itertools.cycle(stored)
        self._new = map(str, itertools.count(10**10))

    def take(self, work: Work, size: int) -> Sequence[str]:
        return list(itertools.islice(self._new if work == "new" else self._stored, size))


async def _size(contender: Contender, series: Series, keys: _Keys, seconds: float) -> int:
    """Find out how many updates take the time that they are to take."""
    size = _FEWEST if series.in_flight == 1 else series.in_flight
    while True:
        cost = await _once(contender, series, keys, size)
        if cost.seconds >= seconds / 4:
            break
        size = min(size * 4, int(size * seconds / max(cost.seconds, 1e-6) / 2) + 1)
    # Whole waves: at the end of a piece of work fewer and fewer are in flight.
    waves = max(1, round(size * seconds / cost.seconds / series.in_flight))
    return waves * series.in_flight


async def _once(contender: Contender, series: Series, keys: _Keys, size: int) -> Cost:
    async with asyncio.timeout(300):
        return await contender.run(series.work, keys.take(series.work, size), series.in_flight)
