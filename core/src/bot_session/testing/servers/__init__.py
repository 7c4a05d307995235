"""
A real server for every test, as session-scoped pytest fixtures.

Load them with ``pytest_plugins = ["bot_session.testing.servers"]``. Each module beside this one but `base` holds the
fixtures of one service; where a server comes from is told in `base`.
"""

from __future__ import annotations

import pkgutil

from .base import Server

__all__ = ["Server"]

pytest_plugins = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.name != "base"]
