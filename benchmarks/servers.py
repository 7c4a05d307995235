"""The servers of the tests, outside pytest: see `bot_session.testing.servers`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_session.testing.servers import Server

__all__ = ["SERVED", "running"]

SERVED = ("redis", "postgres", "mongo")


class _Folders:
    """In the place of pytest's factory of temporary folders."""

    def __init__(self, root: str) -> None:
        self._root = root

    def mktemp(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=name, dir=self._root))


@contextlib.contextmanager
def running(service: str) -> Iterator[Server]:
    """Give a server for the length of the block: one from the environment, a container, or one out of a wheel."""
    # What has no server ends the run here, as it fails a test; a benchmark without it would tell nothing.
    os.environ["CI"] = "true"
    fixture: Any = getattr(importlib.import_module(f"bot_session.testing.servers.{service}"), f"{service}_server")
    with tempfile.TemporaryDirectory(prefix=f"bench-{service}-") as root:
        given: dict[str, Any] = {"tmp_path_factory": _Folders(root)}
        wanted = inspect.signature(fixture.__wrapped__).parameters
        start = contextlib.contextmanager(fixture.__wrapped__)
        with start(**{name: value for name, value in given.items() if name in wanted}) as server:
            yield server
