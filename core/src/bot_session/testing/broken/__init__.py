"""
Storages that are broken on purpose, each in a way seen in the field: the contract must catch every one.

``python -m bot_session.testing.broken`` shows that it does.
"""

from __future__ import annotations

from .sound import Client, Database, SoundStorage
from .storages import BROKEN, Broken

__all__ = ["BROKEN", "Broken", "Client", "Database", "SoundStorage"]
