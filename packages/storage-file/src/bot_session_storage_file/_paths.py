"""
Which key rests in which file: ``<last two characters of the key>/<key>.json``, as in grammY.

Everything but digits, lower-case letters, ``-``, ``_`` and inner dots is percent-encoded. So every name is plain ASCII
that no disk folds, refuses or takes for another; ``..`` and ``/`` cannot lead out of the folder; and the key can be
told from the path. Long names continue in folders: ``<start>+/+<middle>+/+<end>.json``.

grammY itself encodes nothing: what it wrote under a *plain* path is found there. Paths here are relative and have
``/`` between their parts.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote
from zlib import crc32

from bot_session.storage import key_problem

__all__ = ["LOCKS", "MAX_KEY_BYTES", "key_of", "lock_of", "path_of", "plain_path_of", "shard_of", "shard_of_folder"]

MAX_KEY_BYTES: Final = 1024
"""Percent-encoded three times as long, which with its folder still fits into the 4096 bytes that Linux gives a path."""

LOCKS: Final = 16
"""How many locks the shards share."""

_SUFFIX: Final = ".json"
_PART: Final = 248  # with "+" on both sides, or "+" and ".json", within the 255 bytes of a name
_CONTINUED: Final = "+/+"  # "+" itself is encoded, so no key can look like this, and no folder like a file
_ENCODED: Final = re.compile(rb"[^0-9a-z_.-]")
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")  # Windows takes con.json for the console
_NOT_ON_WINDOWS: Final = re.compile(r'[<>:"\\|?*\x00-\x1f]|[ .]$')

_REMEMBERED: Final = 4_096
"""Of how many keys it is remembered where they rest: an update asks for it three times."""


@lru_cache(_REMEMBERED)
def shard_of(key: str) -> str:
    """Return the last two characters as JavaScript counts them; half of one is U+FFFD, as Node.js writes it."""
    return key.encode("utf-16-le")[-4:].decode("utf-16-le", "replace")


@lru_cache(_REMEMBERED)
def path_of(key: str) -> str:
    """Return where ``key`` rests, unless grammY has written it."""
    name = _encode(key)
    if len(name) > _PART:
        name = _CONTINUED.join(name[start : start + _PART] for start in range(0, len(name), _PART))
    return _join(_encode(shard_of(key)), name)


def plain_path_of(key: str) -> str | None:
    """Return where grammY puts ``key``; None if that is the same place, no place, or that of another key."""
    shard = shard_of(key)
    if "/" in key or shard in {".", ".."} or len((key + _SUFFIX).encode()) > 255:
        return None
    if os.name == "nt" and (_NOT_ON_WINDOWS.search(key) or _NOT_ON_WINDOWS.search(shard) or _DEVICE.match(key.lower())):
        return None
    path = _join(shard, key)
    return path if _key_of_encoded(path) is None else None


def key_of(path: str) -> str | None:
    """Return the key whose file this is, None if it is nobody's."""
    key = _key_of_encoded(path)
    if key is None and path.endswith(_SUFFIX):
        key = path.rpartition("/")[2].removesuffix(_SUFFIX)
        if key_problem(key, MAX_KEY_BYTES) or plain_path_of(key) != path:
            return None
    return key


def shard_of_folder(folder: str) -> str | None:
    """Return the shard, as `shard_of` does, whose encoded or plain folder this is; None for others' folders."""
    if key_problem(folder, None):
        return None
    shard = unquote(folder)
    if shard_of(shard) == shard and _encode(shard) == folder:
        return shard
    return folder if shard_of(folder) == folder else None


def lock_of(shard: str) -> int:
    """Return the number of the lock that guards a shard."""
    return crc32(shard.encode()) % LOCKS


def _key_of_encoded(path: str) -> str | None:
    if not path.endswith(_SUFFIX):
        return None
    name = path.removesuffix(_SUFFIX)
    # All after the shard is the name; the empty key has neither.
    key = unquote(name.partition("/")[2].replace(_CONTINUED, "") if "/" in name else name)
    return key if not key_problem(key, MAX_KEY_BYTES) and path_of(key) == path else None


def _join(shard: str, name: str) -> str:
    return f"{shard}/{name}{_SUFFIX}" if shard else f"{name}{_SUFFIX}"


def _encode(text: str) -> str:
    name = _ENCODED.sub(lambda match: b"%%%02X" % match[0][0], text.encode()).decode()
    if name.startswith("."):
        name = "%2E" + name[1:]
    if name.endswith("."):
        name = name[:-1] + "%2E"
    return f"%{ord(name[0]):02X}{name[1:]}" if _DEVICE.match(name) else name
