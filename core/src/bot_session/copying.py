"""Copying documents from one storage to another, of whatever kind, with their remaining life."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigurationError, ConflictError
from .leases import is_lease
from .sealing import Seal
from .storage import ABSENT, ANY, Write, conflicts_only
from .wrappers import locate

if TYPE_CHECKING:
    from .storage import Storage

__all__ = ["Copied", "copy_documents"]


class Copied(NamedTuple):
    """
    How a copy went.

    Attributes:
        copied: How many documents were written.
        kept: How many were left alone, because the target had something under their key.
    """

    copied: int
    kept: int


async def copy_documents(
    source: Storage, target: Storage, *, prefix: str = "", overwrite: bool = False, batch_size: int = 500
) -> Copied:
    """
    Copy documents as they are: no codec is needed, and encrypted ones stay encrypted.

    An encrypted document is bound to its key in the innermost storage, so it can be copied only to where that is the
    same: with another prefix, nobody could decrypt it. If the prefixes differ, all documents are looked at before.

    What is changed in the source meanwhile may be copied in its old or its new form, so stop the bots before moving
    house. It may be run again: what was copied is kept then.

    Args:
        source: Where they are.
        target: Where to.
        prefix: Copy only keys that start with it.
        overwrite: Replace what the target has under the same key. Otherwise that is kept.
        batch_size: How many to carry at a time.

    Returns:
        How many were copied, and how many kept.

    Raises:
        ConfigurationError: Some are encrypted, and could not be decrypted where they would be. Nothing was written.
        StorageError: One of the storages failed, or the target cannot hold one of the documents. Those copied before
            are there.
    """
    if locate(source, prefix)[1] != locate(target, prefix)[1]:
        await _require_plain(source, target, prefix, batch_size)
    copied = kept = 0
    batch: list[Write] = []

    async def carry() -> None:
        nonlocal copied, kept
        for result in conflicts_only(await target.write_many(batch)):
            if isinstance(result, ConflictError):
                kept += 1
            else:
                copied += 1
        batch.clear()

    async for key, record in source.read_all_entries(prefix, batch_size=batch_size):
        if is_lease(key):
            continue
        batch.append(Write(key, record.value, record.lasting, ANY if overwrite else ABSENT))
        if len(batch) >= batch_size:
            await carry()
    await carry()
    return Copied(copied, kept)


async def _require_plain(source: Storage, target: Storage, prefix: str, batch_size: int) -> None:
    without_keys = Seal()
    async for key, record in source.read_all_entries(prefix, batch_size=batch_size):
        if not is_lease(key) and not without_keys.is_current(record.value):
            here, there = locate(source, key)[1], locate(target, key)[1]
            raise ConfigurationError(
                f"session {key!r} is encrypted for the key {here!r} and could not be decrypted under {there!r}:"
                " copy with the same prefix on both sides, or without any, or read and write it with Sessions"
            )
