"""Sessions in PostgreSQL."""

from __future__ import annotations

from ._storage import PostgresStorage

__all__ = ["PostgresStorage"]
