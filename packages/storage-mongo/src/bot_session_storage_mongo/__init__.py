"""Chat bot sessions in MongoDB, as native documents in the layout of grammY."""

from __future__ import annotations

from ._storage import MongoStorage

__version__ = "0.1.0"

__all__ = ["MongoStorage"]
