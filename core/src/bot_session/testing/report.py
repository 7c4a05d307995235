"""
A pytest plugin that writes down how a storage fared: ``pytest -p bot_session.testing.report --bot-session-report DIR``.

For every subclass of `StorageContract` that ran there is a ``DIR/<module>.<class>/conformance.json`` afterwards. Its
``level`` is ``Conformant`` only if every test of the contract ran and passed, apart from those that do not apply to
such a storage; otherwise ``Partial (n skipped)`` or ``Failing``. A test that was left out or overridden counts as
skipped.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bot_session.storage import Storage

from .contract import CONTRACT_VERSION, NOT_APPLICABLE, StorageContract

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Conformance"]

PROPERTY = "bot_session"
"""Under which name what a test knows travels to the process that writes the report."""


def tests_of(cls: type) -> set[str]:
    """Return the names of the test functions of a class."""
    return {name for name in dir(cls) if name.startswith("test_") and callable(getattr(cls, name))}


@dataclasses.dataclass
class Conformance:
    """What became of one subclass of `StorageContract`."""

    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    passed: set[str] = dataclasses.field(default_factory=set)
    failed: set[str] = dataclasses.field(default_factory=set)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    not_applicable: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, report: pytest.TestReport) -> None:
        """Count one phase of one test."""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reason = reason.removeprefix("Skipped: ")
            if reason.startswith(NOT_APPLICABLE):
                self.not_applicable[name] = reason.removeprefix(NOT_APPLICABLE)
            else:
                self.skipped[name] = reason
        elif report.failed:
            self.failed.add(name)
            self.passed.discard(name)
        elif report.when == "call":
            self.passed.add(name)

    def as_dict(self) -> dict[str, Any]:
        """Return the report."""
        ran = {name.partition("[")[0] for name in (*self.passed, *self.failed, *self.skipped, *self.not_applicable)}
        not_run = sorted(tests_of(StorageContract) - ran)
        missing = len(self.skipped) + len(not_run) + len(self.facts.get("overridden", ()))
        level = "Failing" if self.failed else f"Partial ({missing} skipped)" if missing else "Conformant"
        return {
            "contract": CONTRACT_VERSION,
            "level": level,
            **self.facts,
            "failed": sorted(self.failed),
            "skipped": self.skipped,
            "not_run": not_run,
            "not_applicable": self.not_applicable,
            "passed": sorted(self.passed),
        }


def facts_of(item: pytest.Function) -> dict[str, Any]:
    """Return what a test of the contract knows about the storage. All of it survives the way between processes."""
    contract = item.instance
    assert isinstance(contract, StorageContract)
    cls = type(contract)
    facts: dict[str, Any] = {
        "test_class": f"{cls.__module__}.{cls.__qualname__}",
        "name": item.name,
        "keeps_text": cls.keeps_text,
        "refuses": sorted(cls.refuses),
        "overridden": sorted(
            name for name in tests_of(StorageContract) if getattr(cls, name) is not getattr(StorageContract, name)
        ),
    }
    if isinstance(storage := item.funcargs.get("storage"), Storage):
        kind = type(storage)
        facts["storage"] = f"{kind.__module__}.{kind.__qualname__}"
        facts["capabilities"] = dataclasses.asdict(storage.capabilities)
        facts["versions"] = {
            "python": platform.python_version(),
            "bot-session": version("bot-session"),
            **contract.versions(),
        }
    return facts


class Reporter:
    """Gathers the outcomes of a run and writes the reports at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes: dict[str, Conformance] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach to a test's report what it knows: where tests run in several processes, only it gets to the writer."""
        report = yield
        if isinstance(item, pytest.Function) and item.cls is not None and issubclass(item.cls, StorageContract):
            report.user_properties.append((PROPERTY, facts_of(item)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what happened to a test."""
        known: dict[str, Any] = dict(report.user_properties)
        if PROPERTY in known:
            facts = dict(known[PROPERTY])
            conformance = self.classes.setdefault(facts["test_class"], Conformance())
            conformance.add(facts.pop("name"), report)
            conformance.facts |= facts

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write a file for every class."""
        if hasattr(session.config, "workerinput"):
            return  # One of several processes: the one that gathers their results writes.
        for name, conformance in self.classes.items():
            path = self.folder / name / "conformance.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(conformance.as_dict(), indent=2) + "\n", encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("bot-session").addoption(
        "--bot-session-report", metavar="DIR", type=Path, help="write a conformance.json for every storage contract"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Report, if asked to."""
    folder = config.getoption("--bot-session-report")
    if folder is not None:
        config.pluginmanager.register(Reporter(folder), "bot-session-report")
