"""Sessions in a MongoDB collection: ``{_id, key: "42", value: <the document>, expires_at: <date, if it expires>}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, TypeVar

from bot_session.errors import StorageError
from bot_session.storage import (
    ANY,
    PRESENT,
    Capabilities,
    Match,
    Record,
    Storage,
    Version,
    Write,
    WriteResult,
    distinct_rounds,
    part_of_batch,
    portions,
)
from bson.datetime_ms import DatetimeMS
from pymongo.results import DeleteResult

from . import _commands as commands
from ._collection import SessionCollection
from ._commands import Command, Result, held, is_held, select
from ._documents import encodable, to_bson, to_json, to_version
from ._errors import mapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from typing import Self

    from ._collection import AnyCollection

__all__ = ["MongoStorage"]

_T = TypeVar("_T")

_BATCH: Final = 100
"""Operations that travel in one command. More make the server's answer late, and no faster."""

_BATCH_BYTES: Final = 8 * 1024 * 1024
"""About how long a command may become, unless it is for a single document: 16 MiB are what a server takes of keys."""


class MongoStorage(Storage):
    """
    Keeps each document natively, as grammY's MongoDB adapter does: both can work on one collection.

    Needs MongoDB 4.4 or newer; from 8.0 on a batch travels in one command. Reads go to the primary, since a secondary
    may not have what was just written. How durable a write is decides the client's write concern.

    Args:
        source: A collection of PyMongo's ``AsyncMongoClient`` or of Motor, whose client stays yours; or a URL, for
            which a client is made, opened and closed.
        collection: With a URL: the collection's name.
        database: With a URL: the database's name; None is the one that the URL names, else ``bot_session``.
        values: What the field ``value`` has: ``"native"`` documents, or JSON ``"text"`` as in TypeORM's entities.
        create: Whether to create missing indexes. If not, and one is missing, opening fails.
        timeout: Seconds that a command may take with all its retries; None leaves it to the client's settings.

    Raises:
        ConfigurationError: The URL, or what was given instead of one, is wrong.
    """

    capabilities = Capabilities(
        shared=True,
        durable=True,
        native_expiry=True,
        ttl_resolution=0.001,
        atomic_batches=False,
        # A comparison carries the old document beside the new one, and both have to fit into 16 MiB.
        max_value_bytes=7 * 1024 * 1024,
    )
    max_batch, max_under_way = 50, 4  # The driver takes as long for a command in a batch as for one alone.
    driver_query: ClassVar[bool] = True

    def __init__(
        self,
        source: AnyCollection | str,
        *,
        collection: str = "sessions",
        database: str | None = None,
        values: Literal["native", "text"] = "native",
        create: bool = True,
        timeout: float | None = 5.0,
    ) -> None:
        self._collection = SessionCollection(source, name=collection, database=database, timeout=timeout)
        self._text = values == "text"
        self._create = create
        self._something_expires = False  # as far as this object has seen

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make one from ``mongodb:`` or ``mongodb+srv:``; the options are the class's, the rest of the URL PyMongo's."""
        return cls(url, **options)

    # ------------------------------------------------------------------ one document

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        return (await self._find("read", [key])).get(key)

    async def has(self, key: str) -> bool:
        if self._state != "open":
            await self._ready("has", key)
        self._validate("has", key)
        return bool(await self._collection.aggregate("has", [*select(key), {"$project": {"_id": 1}}], key))

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        stored = self._to_stored(value)
        command = commands.write(key, stored, ttl, match)
        if not command.holds(await self._collection.apply("write", key, command)):
            raise self._conflict("write", key, match)
        return to_version(stored)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        command = commands.delete(key, match)
        result = await self._collection.apply("delete", key, command)
        if not command.holds(result):
            raise self._conflict("delete", key, match)
        return _deleted(result)

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        command = Command(PRESENT, held(key), [{"$set": {"expires_at": commands.deadline(ttl)}}])
        return command.holds(await self._collection.apply("touch", key, command))

    # ------------------------------------------------------------------ many

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        self._validate_keys("read_many", keys)
        found: dict[str, Record] = {}
        with self._collection.under_way:
            for batch in _batches(dict.fromkeys(keys), _size_of_key):
                found |= await self._find("read_many", batch)
        return found

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        results: dict[int, WriteResult] = {}
        with self._collection.under_way:
            for turn in distinct_rounds(writes):
                for batch in _batches(map(self._change, turn), _Change.size):
                    with part_of_batch(results):
                        results |= await self._apply(batch)
        return [results[position] for position in range(len(writes))]

    async def delete_many(self, keys: Iterable[str]) -> int:
        if self._state != "open":
            await self._ready("delete_many")
        distinct = list(dict.fromkeys(keys))
        self._validate_keys("delete_many", distinct)
        deleted = 0
        with self._collection.under_way:
            for batch in _batches(distinct, _size_of_key):
                with part_of_batch(deleted):
                    deleted += await self._collection.delete_many(held({"$in": batch}))
        return deleted

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for document in self._scan("read_all_keys", prefix, batch_size, {"key": 1}):
            yield document["key"]

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for document in self._scan("read_all_entries", prefix, batch_size, commands.RECORD):
            yield document["key"], self._record("read_all_entries", document)

    # ------------------------------------------------------------------ life

    async def _open(self) -> None:
        await self._collection.open(create=self._create)

    async def _close(self) -> None:
        await self._collection.close()

    def ddl(self) -> str:
        return self._collection.ddl()

    def __repr__(self) -> str:
        return repr(self._collection)

    # ------------------------------------------------------------------ reading

    async def _find(self, operation: str, keys: Sequence[str]) -> dict[str, Record]:
        """
        Return the records of some keys, by one command. What has expired is rare, and costs less here than there.

        Only the slower of two commands brings the server's clock along. It is not needed before the first document that
        expires, which is then read again.
        """
        which = keys[0] if len(keys) == 1 else {"$in": keys}
        found: list[dict[str, Any]] = []
        with self._collection.under_way:
            if not self._something_expires:
                found = await self._collection.find(operation, which, commands.FIELDS)
                self._something_expires |= any("expires_at" in document for document in found)
            if self._something_expires:
                pipeline: list[dict[str, Any]] = [{"$match": {"key": which}}, {"$project": commands.RECORD}]
                found = await self._collection.aggregate(operation, pipeline, which)
        return {document["key"]: self._record(operation, document) for document in found if is_held(document)}

    async def _scan(
        self, operation: str, prefix: str, batch_size: int, fields: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the documents whose keys start with ``prefix``, in the order of their keys."""
        if self._state != "open":
            await self._ready(operation)
        self._validate_listing(operation, prefix, batch_size)
        bound = {"$gte": prefix}
        rest: list[dict[str, Any]] = [{"$sort": {"key": 1}}, {"$limit": batch_size}, {"$project": fields}]
        while True:
            if self._state != "open":
                await self._ready(operation)
            page = await self._collection.aggregate(operation, [*select(bound), *rest])
            for document in page:
                if not document["key"].startswith(prefix):
                    return
                yield document
            if len(page) < batch_size:
                return
            bound = {"$gt": page[-1]["key"]}

    def _record(self, operation: str, document: dict[str, Any]) -> Record:
        value, deadline = document["value"], document.get("expires_at")
        with mapped(self, operation, document["key"], timeout=None):
            text = value if self._text and isinstance(value, str) else to_json(value)
        ttl = (int(deadline) - int(document["now"])) / 1000 if isinstance(deadline, DatetimeMS) else None
        return Record(text, to_version(value), ttl)

    # ------------------------------------------------------------------ writing

    def _to_stored(self, document: str) -> Any:
        return encodable(document) if self._text else to_bson(document)

    def _change(self, positioned: tuple[int, Write]) -> _Change:
        position, write = positioned
        if write.value is None:
            return _Change(position, write.key, commands.delete(write.key, write.match), None)
        stored = self._to_stored(write.value)
        command = commands.write(write.key, stored, write.ttl, write.match)
        return _Change(position, write.key, command, to_version(stored))

    async def _apply(self, batch: Sequence[_Change]) -> dict[int, WriteResult]:
        """Apply changes under different keys, and return what came of each, by its position."""
        results = await self._collection.apply_all([(change.key, change.command) for change in batch])
        outcomes: dict[int, WriteResult] = {}
        for (position, key, command, version), result in zip(batch, results, strict=True):
            if isinstance(result, StorageError):
                outcomes[position] = result
            elif not command.holds(result):
                outcomes[position] = self._conflict("write_many", key, command.match)
            else:
                outcomes[position] = _deleted(result) if version is None else version
        return outcomes


class _Change(NamedTuple):
    """A write of a batch: which it is, its command, and the version that it gives; a delete gives none."""

    position: int
    key: str
    command: Command
    version: Version | None

    def size(self) -> int:
        """Return about how many bytes travel: a version is as long as its document, and may be sent twice."""
        match = self.command.match
        return _size_of_key(self.key) + len(self.version or "") + (2 * len(match) if isinstance(match, str) else 0)


def _deleted(result: Result) -> bool:
    return isinstance(result, DeleteResult) and result.deleted_count == 1


def _size_of_key(key: str) -> int:
    return len(key.encode())


def _batches(items: Iterable[_T], size_of: Callable[[_T], int]) -> Iterator[list[_T]]:
    return portions(items, size_of, most=_BATCH, longest=_BATCH_BYTES)
