"""Every example in README, CONTRIBUTING, docs and docstrings is a test; every test may ask for a real server."""

from __future__ import annotations

import gc
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["bot_session.testing.servers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of a test's time what its server takes to be there: the first may have one built, or an image fetched."""
    for item in items:
        if any(name.endswith("_server") for name in getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.fixture(scope="module")
def sockets_collected() -> Iterator[None]:
    """Let the garbage collector find what a driver leaves to it here, not in another module's tests."""
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=False)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Run a document's examples in a folder of their own: some make databases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        yield


documents = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"], fixtures=["elsewhere"], excludes=["**/.*/**"]
)
docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)],
    path=str(Path(__file__).parent),
    patterns=["**/src/**/*.py"],
    fixtures=["elsewhere"],
)
pytest_collect_file = (documents + docstrings).pytest()
