"""Keeps bot-session's sessions in Redis or Valkey."""

from __future__ import annotations

from ._storage import RedisStorage

__all__ = ["RedisStorage"]
