"""Compare bot-session with the bare drivers and its peers; write the results beside this file."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from . import plot, report
from .growth import grow
from .rounds import STORAGES, compare, place
from .workload import KEYS

_SIZES = [10**3, 10**4, 10**5, 10**6]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first look: fewer, shorter rounds, fewer sessions")
    parser.add_argument("--only", action="append", choices=STORAGES, help="this storage; may be given several times")
    parser.add_argument("--skip", choices=("rates", "sizes"), help="leave out one of the two parts")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn; default: 3 if quick, else 7")
    parser.add_argument("--name", default=None, help="of the files in results/; default: quick or latest")
    options = parser.parse_args()
    name, folder = options.name or ("quick" if options.quick else "latest"), Path(__file__).parent / "results"
    storages = options.only or STORAGES
    rounds, seconds = options.rounds or (3 if options.quick else 7), 0.1 if options.quick else 0.2
    stored = KEYS[:1_000] if options.quick else KEYS
    results = report.Results(report.machine() | {"rounds": str(rounds)}, {}, [], [])
    console = Console()
    for storage in storages:
        with console.status(f"{storage}: everybody in turn"), place(storage) as (where, version):
            results.servers[storage] = version
            if options.skip != "rates":
                results.series += asyncio.run(compare(storage, where, rounds=rounds, seconds=seconds, stored=stored))
        if options.skip != "sizes":
            with console.status(f"{storage}: more and more sessions"):
                results.sizes += grow(storage, [size for size in _SIZES if size <= _most(storage, options.quick)])
        _keep(results, folder, name)  # after each storage: who interrupts a long run has what there is
    report.show(results)
    console.print(f"written: {folder.name}/{name}.*")


def _keep(results: report.Results, folder: Path, name: str) -> None:
    report.write(results, folder, name)
    if results.series:
        plot.draw_rates(results.series, folder / f"{name}-rates.svg")
    if results.sizes:
        plot.draw_sizes(results.sizes, folder / f"{name}-sizes.svg")


def _most(storage: str, quick: bool) -> int:
    """With how many stored sessions to end: a file for each of a million fills the disk's tables, not ours."""
    return 10**4 if quick else {"file": 10**4, "mongo": 10**5}.get(storage, 10**6)


main()
