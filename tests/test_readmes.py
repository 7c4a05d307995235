"""The packages' READMEs are of one form, and their examples remember: with a real server where one is needed."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bot_session import Sessions
from bot_session.urls import _PACKAGES, find_storage, options_of

ROOT = Path(__file__).parent.parent
README = {path.parent.name.removeprefix("storage-"): path for path in ROOT.glob("packages/storage-*/README.md")}
HEADINGS = [
    "Install",
    "Example",
    "Options",
    "What it creates in your database",
    "How expired data leaves",
    "Limits",
    "grammY and GramIO",
]


@pytest.mark.parametrize("name", README)
def test_headings_are_the_same_everywhere(name):
    assert re.findall(r"^## (.*)$", README[name].read_text(), re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("name", README)
async def test_the_example_remembers(name, make_url, open_url):
    [example] = re.findall(r"^```python\n(.*?)^```$", README[name].read_text(), re.MULTILINE | re.DOTALL)
    url = make_url(name)
    storage = await open_url(url)
    program, replaced = re.subn(r'open_storage\(".*?"\)', lambda _: f"open_storage({url!r})", example)

    assert replaced == 1
    for count in (1, 2):
        await asyncio.to_thread(subprocess.run, [sys.executable, "-W", "error", "-c", program], check=True)

        assert (await storage.read("42")).value == f'{{"count":{count}}}'


def options_in(text):
    """The names in the tables whose head begins with "option"."""
    tables = re.findall(r"^\| option \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("name", README)
def test_the_options_of_a_storage_are_all_there(name):
    (storage,) = {find_storage(scheme) for scheme, package in _PACKAGES.items() if package.endswith(f"-storage-{name}")}
    options, parameters = options_of(storage).keys(), inspect.signature(storage).parameters.keys()
    written = options_in(README[name].read_text())

    assert set() == (options - {"prefix"}) - written
    assert set() == written - options - parameters


def test_the_options_of_sessions_are_all_there():
    assert inspect.signature(Sessions).parameters.keys() - {"storage"} == options_in((ROOT / "README.md").read_text())


def test_what_to_install_for_a_scheme_is_what_the_packages_declare():
    projects = [tomllib.loads(path.read_text())["project"] for path in ROOT.glob("*/**/pyproject.toml")]
    declared = {
        scheme: project["name"]
        for project in projects
        for scheme in project.get("entry-points", {}).get("bot_session.storages", ())
    }

    assert {"memory", "sqlite"} < declared.keys()
    assert declared == _PACKAGES


def test_the_figures_are_those_of_the_kept_run():
    results = json.loads((ROOT / "benchmarks/results/latest.json").read_text())
    rates = {
        (series["storage"], series["contender"], series["in_flight"]): [
            cost["updates"] / cost["seconds"] for cost in series["costs"]
        ]
        for series in results["series"]
        if series["work"] == "change"
    }

    def ratio(storage, in_flight):
        ours, bare = rates[storage, "bot-session", in_flight], rates[storage, "bare driver", in_flight]
        return f"{statistics.median(a / b for a, b in zip(ours, bare, strict=True)):.1f}"

    rows = [
        f"| {in_flight:,} | {' | '.join(ratio(storage, in_flight) for storage in ('redis', 'postgres', 'sqlite', 'file'))} |"
        for in_flight in (1, 100, 1_000)
    ]
    table = (ROOT / "README.md").read_text().partition("| updates in flight | Redis | PostgreSQL | SQLite | files |")[2]

    assert rows == [line.strip() for line in table.splitlines()[2:5]]
