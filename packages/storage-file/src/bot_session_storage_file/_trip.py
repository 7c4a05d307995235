"""What one call does in the worker threads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Trip"]


@dataclass(slots=True)
class Trip:
    """
    What one call does in the worker threads, in one go or in several.

    Attributes:
        operation: The method that was called.
        key: The key that is being worked on, for errors.
        abandoned: The caller was cancelled: what has not begun must not happen, since it could undo a later write.
        unsynced: Folders whose entries have changed.
        wrote: Something was changed.
        began: From when on, by `time.monotonic`, it waits for locks.
    """

    operation: str
    key: str | None = None
    abandoned: bool = False
    unsynced: set[str] = field(default_factory=set)
    wrote: bool = False
    began: float = field(default_factory=time.monotonic)
