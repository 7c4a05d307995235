"""Storages that change what another storage does."""

from __future__ import annotations

from .base import StorageWrapper, locate
from .cached import CachedStorage
from .fallback import FallbackStorage
from .observed import ObservedStorage, Observer, StorageEvent
from .prefixed import PrefixedStorage
from .read_only import ReadOnlyStorage
from .retrying import RetryingStorage

__all__ = [
    "CachedStorage",
    "FallbackStorage",
    "ObservedStorage",
    "Observer",
    "PrefixedStorage",
    "ReadOnlyStorage",
    "RetryingStorage",
    "StorageEvent",
    "StorageWrapper",
    "locate",
]
