"""bot-session gives every chat bot a memory: session middleware, and one interface for storages of every kind."""

from __future__ import annotations

from .batching import BatchedStorage
from .codec import Codec
from .copying import Copied, copy_documents
from .decorator import with_session
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
from .keys import (
    KeyFunction,
    Origin,
    by_business_connection,
    by_chat,
    by_topic,
    by_user,
    by_user_in_chat,
    with_bot_id,
)
from .memory import MemoryStorage
from .multi import MultiSession, MultiSessions
from .sealing import Resealed, Seal, generate_key, reseal_documents
from .session import KeylessSession, LazySession, Session
from .sessions import Sessions, SessionsOptions
from .storage import ABSENT, ANY, PRESENT, Capabilities, Match, Record, Storage, Version, Write, WriteResult
from .urls import open_storage, register_storage
from .wrappers import (
    CachedStorage,
    FallbackStorage,
    ObservedStorage,
    PrefixedStorage,
    ReadOnlyStorage,
    RetryingStorage,
    StorageWrapper,
)

__version__ = "0.1.0"

__all__ = [
    "ABSENT",
    "ANY",
    "PRESENT",
    "BatchedStorage",
    "BotSessionError",
    "CachedStorage",
    "Capabilities",
    "ClosedError",
    "Codec",
    "CodecError",
    "ConfigurationError",
    "ConflictError",
    "Copied",
    "DecodeError",
    "EncodeError",
    "FallbackStorage",
    "InvalidKeyError",
    "KeyFunction",
    "KeylessSession",
    "LazySession",
    "LockTimeoutError",
    "Match",
    "MemoryStorage",
    "MigrationError",
    "MultiSession",
    "MultiSessions",
    "ObservedStorage",
    "Origin",
    "PrefixedStorage",
    "ReadOnlyStorage",
    "Record",
    "Resealed",
    "RetryingStorage",
    "SchemaError",
    "Seal",
    "Session",
    "SessionClosedError",
    "SessionKeyError",
    "Sessions",
    "SessionsOptions",
    "Storage",
    "StorageError",
    "StorageWrapper",
    "UnavailableError",
    "UnsupportedError",
    "ValueTooLargeError",
    "Version",
    "Write",
    "WriteResult",
    "by_business_connection",
    "by_chat",
    "by_topic",
    "by_user",
    "by_user_in_chat",
    "copy_documents",
    "generate_key",
    "open_storage",
    "register_storage",
    "reseal_documents",
    "with_bot_id",
    "with_session",
]
