"""The work that everybody does: an update reads a session of 300 bytes, changes it, and saves it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

__all__ = ["KEYS", "Contender", "Cost", "InProcess", "Profile", "Work", "changed", "seen"]

Work: TypeAlias = Literal["change", "look", "new", "lazy"]
"""
``change`` reads, changes and saves a stored session; ``look`` leaves it unchanged; ``new`` is the first update of
somebody of whom nothing is stored; ``lazy`` is an update whose handler may want the session, and does not.
"""

KEYS = [str(number) for number in random.Random(1).sample(range(10**9, 10**10), 10_000)]  # noqa: S311 - no secret
"""The keys of the stored sessions: Telegram's chat ids look like that."""


_homes = itertools.count()


def _address() -> dict[str, str]:
    # Nobody's is another's: what a cache of texts saves would otherwise be more than it is among people.
    return {"street": "Via dei Tribunali 32", "city": "Napoli", "zip": f"{next(_homes) % 100_000:05}"}


@dataclass
class Profile:
    """Session data whose document has about 300 bytes."""

    count: int = 0
    name: str = "Margherita Quattro Stagioni"
    language: str = "en"
    state: str = "order:address:confirm"
    address: dict[str, str] = field(default_factory=_address)
    basket: list[str] = field(default_factory=lambda: ["margherita", "marinara", "diavola", "acqua frizzante"])
    history: list[int] = field(default_factory=lambda: list(range(1_000, 1_012)))


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Profile).decode


def changed(document: str | bytes | None) -> str:
    """Do by hand what an update does: decode, change, encode."""
    profile = Profile() if document is None else _decode(document)
    profile.count += 1
    return _encode(profile).decode()


def seen(document: str | bytes | None) -> Profile:
    """Do by hand what an update does that only looks: decode."""
    return Profile() if document is None else _decode(document)


@dataclass(frozen=True)
class Cost:
    """
    What a number of updates took.

    Attributes:
        updates: How many.
        seconds: On the clock.
        cpu: Seconds of this process's CPU, all threads together; the server's are not in it.
    """

    updates: int
    seconds: float
    cpu: float


class Contender:
    """
    Somebody who handles updates.

    Attributes:
        name: Its name in the tables.
        works: What it can do.
        most_in_flight: With how many updates in flight it is worth measuring.
    """

    name: str
    works: frozenset[Work]
    most_in_flight: int

    async def run(self, work: Work, keys: Sequence[str], in_flight: int) -> Cost:
        """Handle one update for each key, so many at a time."""
        raise NotImplementedError

    async def fill(self, keys: Sequence[str] = KEYS) -> None:
        """Store a session under each key."""
        await self.run("new", keys, min(500, self.most_in_flight))


class InProcess(Contender):
    """A contender in Python: a coroutine function for each kind of work, called with the key."""

    def __init__(
        self, name: str, steps: Mapping[Work, Callable[[str], Awaitable[object]]], most_in_flight: int = 1_000
    ) -> None:
        self.name = name
        self._steps = steps
        self.works = frozenset(steps)
        self.most_in_flight = most_in_flight

    async def run(self, work: Work, keys: Sequence[str], in_flight: int) -> Cost:
        step, rest = self._steps[work], iter(keys)
        gc.collect()
        began, began_cpu = time.perf_counter(), time.process_time()
        if in_flight == 1:
            await _one_by_one(step, rest)
        else:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(in_flight):
                    tasks.create_task(_one_by_one(step, rest))
        return Cost(len(keys), time.perf_counter() - began, time.process_time() - began_cpu)


async def _one_by_one(step: Callable[[str], Awaitable[object]], keys: Iterator[str]) -> None:
    for key in keys:
        await step(key)
