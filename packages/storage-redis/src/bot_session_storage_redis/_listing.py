"""Going through keys with SCAN."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Cursor", "LostCursorError", "Seen", "key_of", "pattern"]

REMEMBERED: Final = 50_000
"""Keys that `Seen` remembers at least: a few megabytes."""

_SPECIAL: Final = re.compile(rb"([\\*?\[\]])")
"""What means more than itself in a pattern of SCAN."""


class LostCursorError(Exception):
    """The server process that gave the cursor is gone."""


class Cursor(NamedTuple):
    """
    Where SCAN is in a server, and in which process of it.

    A cursor is a place among hashes, and every process has hashes of its own: the next one, after a restart or a
    failover, takes the cursor and passes over keys without a word.

    Attributes:
        position: What SCAN is told; 0 at the beginning and at the end.
        process: The ``run_id`` of the process; empty at the beginning, and if the server tells none.
    """

    position: int = 0
    process: str = ""

    def moved(self, position: int, process: str) -> Cursor:
        """
        Return the next one, given by this process.

        Raises:
            LostCursorError: It is another process than before.
        """
        if process != self.process and self.process:
            raise LostCursorError("Redis was restarted, or another server took over: the listing has to begin anew")
        return Cursor(position, process)


def pattern(prefix: str) -> bytes:
    """Return what SCAN is told to find the keys that begin like this."""
    return _SPECIAL.sub(rb"\\\1", prefix.encode()) + b"*"


def key_of(raw: bytes) -> str | None:
    """Return a key as text; None if it cannot be one of ours."""
    try:
        key = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in key else key


class Seen:
    """
    The last keys that SCAN gave: it gives some again when the server shrinks its table meanwhile.

    They come again at once. SCAN goes through the table in an order that every size of it keeps, and falls back only to
    the beginning of the place where it is; the comment above ``dictScan`` in Redis's dict.c tells why. So it is enough
    to remember a number of keys that does not grow with the database.
    """

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._before: set[bytes] = set()

    def fresh(self, page: Iterable[bytes]) -> list[bytes]:
        """Return the keys of a page that were not there before, each once."""
        if len(self._keys) >= REMEMBERED:
            self._keys, self._before = set(), self._keys
        fresh = [key for key in dict.fromkeys(page) if key not in self._keys and key not in self._before]
        self._keys.update(fresh)
        return fresh
