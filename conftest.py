"""Every example in README, CONTRIBUTING, docs and docstrings is a test; every test may ask for a real server."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

pytest_plugins = ["bot_session.testing.servers"]


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
