"""Two plots in SVG: everybody beside the bare driver, and costs as more sessions are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from .report import rate, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .growth import Size
    from .rounds import Series

__all__ = ["draw_rates", "draw_sizes"]

mpl.use("svg")
mpl.rcParams.update({
    "svg.hashsalt": "bot-session",  # the same results give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
})  # fmt: skip

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

_COLOURS = {"bot-session": "#0b7285", "grammY": "#e8590c"}
_OTHERS = ("#868e96", "#adb5bd", "#ced4da")


def draw_rates(series: Sequence[Series], path: Path) -> None:
    """Draw how often everybody reads, changes and saves while the bare driver does it once."""
    changes = [each for each in series if each.work == "change"]
    storages = list(dict.fromkeys(each.storage for each in changes))
    figure, axes = plt.subplots(1, len(storages), figsize=(2.6 * len(storages), 3.6), squeeze=False)
    for axis, storage in zip(axes[0], storages, strict=True):
        _bars(axis, [each for each in changes if each.storage == storage])
        axis.set_title(storage, fontweight="bold")
    axes[0][0].set_ylabel("updates, in those of the bare driver")
    figure.supxlabel("updates in flight")
    _save(figure, path)


def _bars(axis: Any, series: list[Series]) -> None:
    bare_name = series[1].contender
    bare = {each.in_flight: each for each in series if each.contender == bare_name}
    names = [name for name in dict.fromkeys(each.contender for each in series) if name != bare_name]
    width, others = 0.8 / len(names), iter(_OTHERS)
    places = {in_flight: place for place, in_flight in enumerate(bare)}
    for number, name in enumerate(names):
        mine = [each for each in series if each.contender == name]
        ratios = [ratio(each, bare[each.in_flight], rate) for each in mine]
        middles = [each.median for each in ratios]
        spread = [[m - r.low for m, r in zip(middles, ratios, strict=True)], [r.high - r.median for r in ratios]]
        where = [places[each.in_flight] + (number - (len(names) - 1) / 2) * width for each in mine]
        colour = _COLOURS.get(name) or next(others, "#dee2e6")
        axis.bar(where, middles, width * 0.92, label=name, color=colour, yerr=spread, error_kw={"lw": 0.8})
    axis.axhline(1, color="#212529", lw=1)
    axis.set_xticks(list(places.values()), [f"{in_flight:,}" for in_flight in places])
    axis.grid(visible=False, axis="x")
    axis.legend(fontsize=7, frameon=False)


def draw_sizes(sizes: Sequence[Size], path: Path) -> None:
    """Draw what a session costs as more and more are stored."""
    titles = {"update": "an update", "keys": "listing: keys", "entries": "listing: data", "purge": "purging"}
    figure, axes = plt.subplots(1, len(titles), figsize=(12, 3.2))
    for axis, (field, title) in zip(axes, titles.items(), strict=True):
        for storage in dict.fromkeys(size.storage for size in sizes):
            mine = [size for size in sizes if size.storage == storage and getattr(size, field) is not None]
            costs = [getattr(size, field) * 1e6 for size in mine]
            axis.plot([size.stored for size in mine], costs, marker="o", ms=3, label=storage)
        scale = "log" if any(getattr(size, field) is not None for size in sizes) else "linear"
        axis.set(title=title, xscale=scale, yscale=scale)
    axes[0].set_ylabel("µs a session")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.supxlabel("stored sessions")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
