"""
Make the table of storages.md from what the contract's reports in docs/conformance say: `python docs/capabilities.py`.

The reports are written by the command that storages.md names.
"""  # noqa: INP001 - a script

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
MARKED = re.compile(r"(?<=<!-- capabilities -->\n).*?(?=<!-- end -->)", re.DOTALL)
ROWS = (
    ("shared by processes", "shared"),
    ("durable as the backend comes", "durable"),
    ("expired data leaves by itself", "native_expiry"),
    ("smallest step of a TTL, in seconds", "ttl_resolution"),
    ("batches are transactions", "atomic_batches"),
    ("longest key, in bytes", "max_key_bytes"),
    ("longest document, in bytes", "max_value_bytes"),
)


def load() -> dict[str, dict[str, Any]]:
    """Return the reports by the name of the storage's class."""
    reports = (json.loads(path.read_text(encoding="utf-8")) for path in DOCS.glob("conformance/*/conformance.json"))
    return {
        report["storage"].rpartition(".")[2]: report for report in sorted(reports, key=lambda item: item["storage"])
    }


def render(reports: dict[str, dict[str, Any]]) -> str:
    """Return the table, a column for each storage."""
    lines = [["", *(f"`{name}`" for name in reports)], ["---"] * (len(reports) + 1)]
    lines += [[label, *(_cell(report["capabilities"][field]) for report in reports.values())] for label, field in ROWS]
    lines.append(["contract", *(f"{report['level']}, {len(report['passed'])} tests" for report in reports.values())])
    lines.append(["tested with", *(_tested_with(report["versions"]) for report in reports.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "no limit of its own" if value is None else f"{value:,}"


def _tested_with(versions: dict[str, str]) -> str:
    """Name driver and server; our own packages have one version."""
    foreign = {name: version for name, version in versions.items() if not name.startswith("bot-session")}
    return ", ".join(version if name == "server" else f"{name} {version}" for name, version in foreign.items())


def update(page: str) -> str:
    """Return a page with the table of today."""
    return MARKED.sub(lambda _: render(load()), page)


if __name__ == "__main__":
    page = DOCS / "storages.md"
    page.write_text(update(page.read_text(encoding="utf-8")), encoding="utf-8")
