"""bot-session gives every chat bot a memory: session middleware, and one interface for storages of every kind."""

from __future__ import annotations

from .errors import (
    BotSessionError,
    ClosedError,
    CodecError,
    ConfigurationError,
    ConflictError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    LockTimeoutError,
    MigrationError,
    SchemaError,
    SessionClosedError,
    SessionKeyError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from .memory import MemoryStorage
from .storage import ABSENT, ANY, PRESENT, Capabilities, Match, Record, Storage, Version, Write, WriteResult
from .urls import open_storage, register_storage
from .wrappers import PrefixedStorage, StorageWrapper

__version__ = "0.1.0"

__all__ = [
    "ABSENT",
    "ANY",
    "PRESENT",
    "BotSessionError",
    "Capabilities",
    "ClosedError",
    "CodecError",
    "ConfigurationError",
    "ConflictError",
    "DecodeError",
    "EncodeError",
    "InvalidKeyError",
    "LockTimeoutError",
    "Match",
    "MemoryStorage",
    "MigrationError",
    "PrefixedStorage",
    "Record",
    "SchemaError",
    "SessionClosedError",
    "SessionKeyError",
    "Storage",
    "StorageError",
    "StorageWrapper",
    "UnavailableError",
    "UnsupportedError",
    "ValueTooLargeError",
    "Version",
    "Write",
    "WriteResult",
    "open_storage",
    "register_storage",
]
