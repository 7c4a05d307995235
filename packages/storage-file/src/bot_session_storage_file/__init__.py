"""Sessions in JSON files: readable, atomic, durable, safe for several processes."""

from ._storage import FileStorage

__all__ = ["FileStorage"]
