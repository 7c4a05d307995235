"""
Storages that are broken on purpose, each in a way seen in the field: the contract must catch every one.

``python -m bot_session.testing.broken`` shows that it does.
"""

from __future__ import annotations

from . import lives as lives
from .sound import Client, Database, SoundStorage
from .storages import Broken

__all__ = ["BROKEN", "Broken", "Client", "Database", "SoundStorage"]

BROKEN: tuple[type[Broken], ...] = tuple(Broken.__subclasses__())
"""All of them."""
