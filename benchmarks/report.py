"""The results: ratios with their spread, on the terminal, in Markdown and in JSON."""

from __future__ import annotations

import os
import platform
import statistics
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from .growth import Size  # noqa: TC001 - msgspec asks
from .rounds import Series  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .workload import Cost

__all__ = ["Ratio", "Results", "machine", "rate", "ratio", "show", "write"]

_LIBRARIES = ("bot-session", "aiosqlite", "asyncpg", "hiredis", "msgspec", "pymongo", "redis", "aiogram", "cashews")
_TITLES = {
    "change": "read, change, save",
    "look": "read, leave unchanged",
    "new": "first update: nothing stored yet",
    "lazy": "the handler does not want its session",
}


class Results(msgspec.Struct):
    """
    What a run found out.

    Attributes:
        machine: On what it ran, and with which versions.
        servers: The version of each storage's server.
        series: The rounds of everybody.
        sizes: What it costs when more and more sessions are stored.
    """

    machine: dict[str, str]
    servers: dict[str, str]
    series: list[Series]
    sizes: list[Size]


class Ratio(msgspec.Struct):
    """How one relates to the other in the rounds: in the middle, at least, at most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def machine() -> dict[str, str]:
    """Say on what this runs, without saying where."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "system": platform.system(), "cores": str(os.cpu_count()), **libraries}


def rate(cost: Cost) -> float:
    """Updates in a second."""
    return cost.updates / cost.seconds


def cpu(cost: Cost) -> float:
    """Seconds of CPU for an update."""
    return cost.cpu / cost.updates


def ratio(one: Series, other: Series, measure: Callable[[Cost], float]) -> Ratio:
    """Relate two contenders round by round, since each round has its own weather."""
    each = [measure(a) / measure(b) for a, b in zip(one.costs, other.costs, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def _middle(series: Series, measure: Callable[[Cost], float]) -> float:
    return statistics.median(map(measure, series.costs))


_HEADINGS = ("storage", "in flight", "who", "updates a second", "of bare driver", "CPU an update, µs", "of bare driver")


def _rows(series: Sequence[Series], work: str) -> Iterator[tuple[str, ...]]:
    """Make a row for everybody; of each piece of work ours comes first, and then the bare driver."""
    tasks: dict[tuple[str, int], list[Series]] = {}
    for each in series:
        if each.work == work:
            tasks.setdefault((each.storage, each.in_flight), []).append(each)
    for (storage, in_flight), everybody in tasks.items():
        for each in everybody:
            yield (
                storage,
                f"{in_flight:,}",
                each.contender,
                f"{_middle(each, rate):,.0f}",
                "1" if each is everybody[1] else str(ratio(each, everybody[1], rate)),
                f"{_middle(each, cpu) * 1e6:,.1f}",
                "1" if each is everybody[1] else str(ratio(each, everybody[1], cpu)),
            )


_SIZE_HEADINGS = (
    "storage", "stored sessions", "update, µs", "keys, µs a session", "data, µs a session", "purge, µs a session",
    "growth while listing, KiB", "bytes an idle session",
)  # fmt: skip


def _size_rows(sizes: Sequence[Size]) -> Iterator[tuple[str, ...]]:
    for size in sizes:
        costs = (size.update, size.keys, size.entries, size.purge)
        yield (
            size.storage,
            f"{size.stored:,}",
            *("by itself" if cost is None else f"{cost * 1e6:,.1f}" for cost in costs),
            f"{size.listing_memory / 1024:,.0f}",
            f"{size.idle_memory / size.stored:,.0f}",
        )


def _tables(results: Results) -> Iterator[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    for work, title in _TITLES.items():
        if rows := list(_rows(results.series, work)):
            yield f"{title[0].upper()}{title[1:]}: updates a second", _HEADINGS, rows
    if rows := list(_size_rows(results.sizes)):
        yield "As more sessions are stored", _SIZE_HEADINGS, rows


def show(results: Results) -> None:
    """Print the tables."""
    console = Console()
    for title, headings, rows in _tables(results):
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number and heading != "who" else "left")
        for number, row in enumerate(rows):
            table.add_row(*row, end_section=number + 1 < len(rows) and rows[number + 1][:2] != row[:2])
        console.print(table)


def write(results: Results, folder: Path, name: str) -> None:
    """Write ``name.json`` and ``name.md``."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.encode(results) + b"\n")
    lines = [", ".join(f"{what} {which}" for what, which in (results.machine | results.servers).items()), ""]
    for title, headings, rows in _tables(results):
        lines += [f"## {title}", ""]
        marks = ["---" if heading in {"storage", "who"} else "---:" for heading in headings]
        lines += [_line(headings), _line(marks), *map(_line, rows), ""]
    (folder / f"{name}.md").write_text("\n".join(lines))


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"
