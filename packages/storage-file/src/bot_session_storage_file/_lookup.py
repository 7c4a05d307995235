"""Which file on the disk is a key's."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from ._files import read_file
from ._paths import path_of, plain_path_of

__all__ = ["is_folder", "locate"]

_NO_SUCH_NAME: Final = frozenset({errno.EINVAL, errno.EILSEQ})


def locate(before: str, key: str) -> tuple[str, tuple[bytes, int] | None]:
    """Return the path of a key's file, ``before`` and all, and what `read_file` says of it; None if there is none."""
    path = before + path_of(key)
    with suppress(FileNotFoundError):
        return path, read_file(path)
    _require_target(os.path.dirname(path))
    plain = plain_path_of(key)
    if plain is not None:
        plain = before + plain
        try:
            file = read_file(plain)
            if _has_exactly(plain):
                return plain, file
        except FileNotFoundError:
            _require_target(os.path.dirname(plain))
        except OSError as error:
            # A disk that cannot hold such a name holds no such file.
            if error.errno not in _NO_SUCH_NAME:
                raise
    return path, None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder, or a link to one. Raises OSError if that cannot be told."""
    if entry.is_dir():
        return True
    if entry.is_symlink():
        _require_target(entry.path)
    return False


def _require_target(folder: str) -> None:
    """Raise OSError if a folder is a link that leads nowhere: what is behind it is out of reach, and not missing."""
    if os.path.islink(folder) and not os.path.exists(folder):
        raise OSError(errno.ENODEV, "a link that leads nowhere, perhaps to a disk that is not mounted", folder)


def _has_exactly(path: str) -> bool:
    """Return whether a file that was found has this name, and not one that its disk takes for the same."""
    folder, name = os.path.split(path)
    twin = os.path.join(folder, name.removesuffix("json") + "JSON")
    return (name.isascii() and not os.path.exists(twin)) or name in os.listdir(folder)
