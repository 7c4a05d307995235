"""Storages that change what another storage does."""

from __future__ import annotations

from .base import StorageWrapper, locate
from .prefixed import PrefixedStorage

__all__ = ["PrefixedStorage", "StorageWrapper", "locate"]
