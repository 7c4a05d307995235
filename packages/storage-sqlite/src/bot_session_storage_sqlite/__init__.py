"""Sessions in SQLite: one file, no server, safe for several processes."""

from ._storage import SQLiteStorage

__all__ = ["SQLiteStorage"]
