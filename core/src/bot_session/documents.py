"""Session data in a storage: encoded, versioned, migrated; and what happens when two processes save the same one."""

from __future__ import annotations

import asyncio
import inspect
import random
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from .codec import Codec, type_of
from .errors import CodecError, ConflictError, DecodeError, EncodeError
from .merging import merge
from .migrations import MARK, Migrations, open_envelope, seal_envelope
from .sealing import SEALED, Seal
from .storage import ABSENT, Write
from .wrappers import locate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from decimal import Decimal

    from .leases import Lease
    from .merging import ConflictPolicy
    from .migrations import Migration
    from .storage import Match, Record, Storage, Version

__all__ = ["ATTEMPTS", "Base", "Documents", "Loaded", "back_off"]

T = TypeVar("T")

ATTEMPTS = 50
"""How often a race that was lost is run again before it is an error."""

SLOTS: Final = 2**18
"""
Of about as many texts it is remembered that the codec wrote them, which spares comparing them as data: by one byte each,
where its hash says. To take a text for another's, one in 255 that meet there, costs a write that was not needed, no more.
"""


async def back_off(attempt: int) -> None:
    """Wait a little, and a random time, so that those who raced do not meet again: at most a tenth of a second."""
    await asyncio.sleep(random.uniform(0, min(0.1, 0.001 * 2**attempt)))  # noqa: S311 - no secret


class Loaded(msgspec.Struct, Generic[T]):
    """
    What was read of a session.

    Attributes:
        data: The data, None if there is none (or it has expired, or a migration dropped it).
        text: The data as text, None likewise. After a migration: as the codec writes it.
        canonical: Whether ``text`` is certainly as the codec would write it.
        version: What is stored, expired or not; None if nothing.
        left: Seconds it has left; None if it lives for ever.
        envelope: The envelope's version, to be written again where there are no migrations.
        found: Whether there is data. Data may be None: a stored ``null``.
    """

    data: Any = None
    text: str | None = None
    canonical: bool = True
    version: Version | None = None
    left: float | None = None
    envelope: Decimal | None = None
    found: bool = False


class Base(msgspec.Struct, frozen=True):
    """
    The data from which an update started.

    Attributes:
        text: As text; None if there was none.
        stored: Whether it was stored; if not, it is what ``initial`` made.
    """

    text: str | None = None
    stored: bool = True


class Documents(Generic[T]):
    """
    The documents of one kind of session. Keys are those of the storage, with prefix.

    Args:
        storage: Where they are.
        initial: As `Sessions`.
        codec: As `Sessions`; None makes one from ``data_type`` or from what ``initial`` returns.
        data_type: As `Sessions`.
        migrations: As `Sessions`.
        ttl: Seconds that a written document lives; None is for ever.
        on_conflict: As `Sessions`.
        seal: As `Sessions`.

    Raises:
        ConfigurationError: The type or the migrations are wrong.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        initial: Callable[..., Any] | None,
        codec: Codec[T] | None,
        data_type: Any,
        migrations: Mapping[Any, Migration] | None,
        ttl: float | None,
        on_conflict: ConflictPolicy[T],
        seal: Seal | None = None,
    ) -> None:
        self.storage = storage
        self.codec: Codec[T] = codec or Codec(type_of(initial) if data_type is None else data_type)
        self.ttl = ttl
        self._initial = initial
        self._initial_takes_context = initial is not None and _wants_argument(initial)
        self._migrations = None if migrations is None else Migrations(migrations)
        self._on_conflict = on_conflict
        self._seal = seal or Seal()
        self._all_plain = migrations is None and self._seal.inert  # But for those that look as if they were not.
        self._own = bytearray(SLOTS)

    # ------------------------------------------------------------------ reading

    async def load(self, key: str, lease: Lease | None = None) -> Loaded[T]:
        """
        Read a document and turn it into data.

        Args:
            key: Where.
            lease: Was taken just now, and the document perhaps read with it.

        Raises:
            StorageError: It could not be read.
            DecodeError, MigrationError: It is not what the code expects; it stays as it is.
        """
        return await self.unpack(key, await self.read(key, lease))

    async def read(self, key: str, lease: Lease | None) -> Record | None:
        """Read a document, if it was not read with the lease. Raises `StorageError`."""
        found = None if lease is None else lease.found
        return await self.storage.read(key) if found is None else found.get(key)

    async def unpack(self, key: str, record: Record | None) -> Loaded[T]:
        """Turn what was read into data. Raises as `load` does."""
        return self.unpack_at_once(key, record) or await self._unpack_wrapped(key, cast("Record", record))

    def unpack_at_once(self, key: str, record: Record | None) -> Loaded[T] | None:
        """Do what `unpack` does if nothing was read, or a text neither sealed nor versioned, as is the rule. If not, None."""
        if record is None:
            return Loaded()
        document = record.value
        if not self._is_plain(document):
            return None
        try:
            data = self.codec.decode(document)
        except CodecError as error:
            error.key = key
            raise
        return Loaded(data, document, self._is_own(document), record.version, record.ttl, None, True)

    def _is_plain(self, document: str) -> bool:
        """Whether a document is just the text of the data: not in an envelope, not sealed."""
        # One character is found, or not, in a tenth of the time.
        return self._all_plain and ("_" not in document or MARK not in document) and not document.startswith(SEALED)

    def _is_own(self, document: str) -> bool:
        """Whether the codec has written this text, as far as it is remembered."""
        mark = hash(document)
        return self._own[mark % SLOTS] == mark % 255 + 1  # 0 is nothing

    async def _unpack_wrapped(self, key: str, record: Record) -> Loaded[T]:
        loaded: Loaded[T] = Loaded(version=record.version, left=record.ttl)
        try:
            await self._unpack_envelope(self._unsealed(key, record.value), loaded)
        except CodecError as error:
            error.key = key
            raise
        return loaded

    async def _unpack_envelope(self, document: str, loaded: Loaded[T]) -> None:
        envelope = open_envelope(document)
        if envelope is not None:
            if envelope.expired:
                return
            document, loaded.envelope = envelope.document, envelope.version
        if self._migrations is not None and loaded.envelope != self._migrations.latest:
            migrated = await self._migrations.apply(Codec[Any]().decode(document), loaded.envelope)
            if migrated is None:
                return
            document = Codec[Any]().encode(migrated)
        loaded.data, loaded.text, loaded.found = self.codec.decode(document), document, True
        loaded.canonical = self._is_own(document)

    def initial(self, context: object) -> Any:
        """Make the data of a new session: perhaps an awaitable of it."""
        if self._initial is None:
            return None
        return self._initial(context) if self._initial_takes_context else self._initial()

    async def initial_data(self, context: object) -> T:
        """Make the data of a new session, waiting for it."""
        data = self.initial(context)
        return cast("T", await data if inspect.isawaitable(data) else data)

    # ------------------------------------------------------------------ writing

    def encode(self, key: str, data: T) -> str:
        """
        Turn data into text.

        Raises:
            EncodeError: There is no JSON for it.
        """
        try:
            return self.codec.encode(data)
        except CodecError as error:
            error.key = key
            raise

    def verify(self, key: str, data: T, text: str) -> None:
        """
        Make sure that text brings the data back.

        Raises:
            EncodeError: It does not.
        """
        try:
            self.codec.verify(data, text)
        except CodecError as error:
            error.key = key
            raise
        mark = hash(text)
        self._own[mark % SLOTS] = mark % 255 + 1

    def put(
        self, key: str, text: str | None, match: Match, envelope: Decimal | None, lease: Lease | None = None
    ) -> Awaitable[Version | None]:
        """
        Write data, or delete it. It is no coroutine of its own: every update waits for what it returns.

        Args:
            key: Where.
            text: The data as text; None deletes.
            match: As `Storage.write`.
            envelope: The version that the data had when it was read, for want of migrations.
            lease: Is given back afterwards, or with it, whether writing succeeds or not.

        Returns:
            The version of what is stored now; None after a delete.

        Raises:
            EncodeError: When called: it cannot be sealed. The lease is as it was.
            ConflictError: The match failed.
            StorageError: It could not be written.
        """
        document = text
        if text is not None and (envelope is not None or not self._is_plain(text)):
            version = envelope if self._migrations is None else self._migrations.latest
            document = self._sealed(key, seal_envelope(text, version))
        if lease is not None:
            return lease.release_after(Write(key, document, None if text is None else self.ttl, match))
        if document is not None:
            return self.storage.write(key, document, ttl=self.ttl, match=match)
        return self._delete(key, match)

    async def _delete(self, key: str, match: Match) -> None:
        await self.storage.delete(key, match=match)

    def moved(self, document: str, old: str, new: str) -> str:
        """
        Return the document of one key as it must be written under another.

        Raises:
            DecodeError: It cannot be unsealed.
        """
        try:
            return self._sealed(new, self._unsealed(old, document))
        except DecodeError as error:
            error.key = old
            raise

    def _unsealed(self, key: str, document: str) -> str:
        return document if self._seal.leaves(document) else self._seal.unseal(document, self._place(key))

    def _sealed(self, key: str, document: str) -> str:
        if self._seal.leaves(document):
            return document
        try:
            return self._seal.seal(document, self._place(key))
        except EncodeError as error:
            error.key = key
            raise

    def _place(self, key: str) -> str:
        return locate(self.storage, key)[1]

    async def settle(
        self, key: str, base: Base, mine: str | None, conflict: ConflictError
    ) -> tuple[str | None, Version | None]:
        """
        Settle a conflict as the policy says, and write what comes out.

        Args:
            key: Where.
            base: From what this side started.
            mine: What this side wanted to write; None to delete.
            conflict: What the storage raised.

        Returns:
            What was written, and its version.

        Raises:
            ConflictError: The policy could not settle it, or others were faster every time.
            StorageError: It could not be read or written.
        """
        for attempt in range(ATTEMPTS):
            loaded = await self.load(key)
            theirs = None if loaded.text is None else self.codec.canonical(loaded.text)
            try:
                settled = await self._resolve(base, mine, theirs)
            except ConflictError as unsettled:
                _describe(unsettled, conflict)
                raise unsettled from conflict
            match: Match = ABSENT if loaded.version is None else loaded.version
            if settled is None and loaded.version is None:
                return None, None
            try:
                return settled, await self.put(key, settled, match, loaded.envelope)
            except ConflictError as again:
                conflict = again
            await back_off(attempt)
        raise conflict

    async def _resolve(self, base: Base, mine: str | None, theirs: str | None) -> str | None:
        policy = self._on_conflict
        if policy == "overwrite":
            return mine
        if policy == "merge":
            return self.merge(base, mine, theirs)
        if policy == "raise":
            raise ConflictError("somebody else saved the session meanwhile", mine=mine, theirs=theirs)
        decide = cast("Callable[..., Any]", policy)
        sides = (
            None if text is None else self.codec.decode(text)
            for text in (mine, theirs, base.text if base.stored else None)
        )
        data = decide(*sides)
        data = await data if inspect.isawaitable(data) else data
        if data is None:
            return None
        text = self.codec.encode(data)
        self.codec.verify(data, text)
        return text

    def merge(self, base: Base, mine: str | None, theirs: str | None) -> str | None:
        """
        Merge two changes of the data, as text, if what comes out is such data.

        Raises:
            ConflictError: They do not go together.
        """
        before = base.text
        if before is not None and base.stored:  # Initial data is as the codec writes it; it need not be readable.
            before = self.codec.canonical(before)
        if mine is not None and not self.codec.is_steady:
            mine = self.codec.canonical(mine)
        merged = merge(before, mine, theirs)
        try:
            if merged is not None:
                self.codec.decode(merged)
        except DecodeError as error:
            problem = f"what both sides changed does not go together: {error}"
            raise ConflictError(problem, mine=mine, theirs=theirs) from error
        return merged


def _describe(unsettled: ConflictError, conflict: ConflictError) -> None:
    """Tell a policy's error where it happened."""
    unsettled.operation, unsettled.key, unsettled.storage = conflict.operation, conflict.key, conflict.storage
    unsettled.expected, unsettled.actual = conflict.expected, conflict.actual


def _wants_argument(function: Callable[..., Any]) -> bool:
    """Whether ``initial`` must be given the context: it has a parameter without default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # Some built-in classes, like dict, do not tell; they need nothing.
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
