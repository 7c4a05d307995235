"""Sessions in a MongoDB collection: ``{_id, key: "42", value: <the document>, expires_at: <date, if it expires>}``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from bot_session.errors import ConfigurationError, SchemaError, UnsupportedError
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
)
from bson.datetime_ms import DatetimeMS
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import ClientBulkWriteException, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.results import DeleteResult
from pymongo.uri_parser import parse_uri

from . import _commands as commands
from ._commands import SIMPLE, Command, Result, held
from ._documents import OPTIONS, encodable, to_bson, to_json, to_version
from ._errors import mapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from typing import Self

    from motor.core import AgnosticCollection
    from pymongo.asynchronous.collection import AsyncCollection

    AnyCollection: TypeAlias = AsyncCollection[Any] | AgnosticCollection[Any]

__all__ = ["MongoStorage"]

_T = TypeVar("_T")
_Index: TypeAlias = tuple[str, dict[str, Any]]

_KEY_INDEX: Final[_Index] = ("key", {"unique": True})
_TTL_INDEX: Final[_Index] = ("expires_at", {"expireAfterSeconds": 0})

_INDEX_REFUSED: Final = frozenset({
    13,  # Unauthorized
    67,  # CannotCreateIndex
    85,  # IndexOptionsConflict
    86,  # IndexKeySpecsConflict
})  # fmt: skip

_DUPLICATE_KEY: Final = 11000

_BATCH: Final = 100
"""Operations that travel in one command. More make the server's answer late, and no faster."""

_IN_FLIGHT: Final = 8
"""Commands that are under way at once for a batch, where a server has no batches that tell their results apart."""

_TRIES: Final = 5
"""Of two upserts of a key at once the server refuses one, which finds the other's document at its next try."""

_MONGODB_4_4: Final = 9
_MONGODB_8_0: Final = 25
"""Versions of the wire protocol."""


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
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ConfigurationError(f"timeout is a number of seconds above 0, or None, not {timeout!r}")
        self._url = source if isinstance(source, str) else None
        self._client: AsyncMongoClient[Any] | None = None
        self._collection: Any = None
        if isinstance(source, str):
            self._database, self._name = database or _database_of(source), collection
        else:
            self._collection = _configured(source)
            self._database, self._name = self._collection.database.name, self._collection.name
        self._text = values == "text"
        self._create = create
        self._timeout = timeout
        self._tells_apart = False
        self._collation: dict[str, Any] | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        collection: str = "sessions",
        database: str | None = None,
        values: Literal["native", "text"] = "native",
        create: bool = True,
        timeout: float | None = 5.0,
    ) -> Self:
        """Make one from ``mongodb:`` or ``mongodb+srv:``; the options are the class's, the rest of the URL PyMongo's."""
        return cls(url, collection=collection, database=database, values=values, create=create, timeout=timeout)

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
        return bool(await self._aggregate("has", [{"$match": held(key)}, {"$project": {"_id": 1}}], key))

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        stored = self._to_stored(value)
        command = commands.write(key, stored, ttl, match)
        if not command.holds(await self._apply("write", key, command)):
            raise self._conflict("write", key, match)
        return to_version(stored)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        command = commands.delete(key, match)
        result = await self._apply("delete", key, command)
        if not command.holds(result):
            raise self._conflict("delete", key, match)
        return _deleted(result)

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        command = Command(PRESENT, held(key), [{"$set": {"expires_at": commands.deadline(ttl)}}])
        return command.holds(await self._apply("touch", key, command))

    # ------------------------------------------------------------------ many

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        for key in keys:
            self._validate("read_many", key)
        found: dict[str, Record] = {}
        for batch in _batches(list(dict.fromkeys(keys))):
            found |= await self._find("read_many", batch)
        return found

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        results: dict[int, WriteResult] = {}
        for turn in distinct_rounds(writes):
            for batch in _batches(turn):
                outcomes = await self._write_batch([write for _, write in batch])
                results.update(zip((position for position, _ in batch), outcomes, strict=True))
        return [results[position] for position in range(len(writes))]

    async def delete_many(self, keys: Iterable[str]) -> int:
        if self._state != "open":
            await self._ready("delete_many")
        distinct = list(dict.fromkeys(keys))
        for key in distinct:
            self._validate("delete_many", key)
        deleted = 0
        for batch in _batches(distinct):
            with mapped(self, "delete_many", timeout=self._timeout, writing=True):
                result = await self._collection.delete_many(held({"$in": batch}), collation=self._collation)
            deleted += result.deleted_count
        return deleted

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for document in self._scan("read_all_keys", prefix, batch_size, {"key": 1}):
            yield document["key"]

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for document in self._scan("read_all_entries", prefix, batch_size, commands.RECORD):
            yield document["key"], self._record("read_all_entries", document)

    # ------------------------------------------------------------------ life

    async def _open(self) -> None:
        if self._url is not None:
            with mapped(self, "open", timeout=None):
                client: AsyncMongoClient[Any] = AsyncMongoClient(self._url)
            self._client, self._collection = client, _configured(client[self._database][self._name])
        try:
            await self._prepare()
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        if self._client is not None:
            client, self._client, self._collection = self._client, None, None
            await client.close()

    async def _prepare(self) -> None:
        """See whether the server is new enough, and to the indexes."""
        with mapped(self, "open", timeout=self._timeout):
            wire = (await self._collection.database.command("hello"))["maxWireVersion"]
            options = await self._collection.options()
            indexes = list((await self._collection.index_information()).values())
        if wire < _MONGODB_4_4:
            raise UnsupportedError("MongoDB 4.4 or newer is needed", operation="open", storage=self)
        self._tells_apart = wire >= _MONGODB_8_0
        self._collation = SIMPLE if "collation" in options else None
        if not any(index["key"] == [("key", 1)] and index.get("unique") for index in indexes):
            await self._create_index(_KEY_INDEX)
        if not any(index["key"] == [("expires_at", 1)] and "expireAfterSeconds" in index for index in indexes):
            await self._create_index(_TTL_INDEX)

    async def _create_index(self, index: _Index) -> None:
        field, options = index
        statement = self._statement(index)
        if not self._create:
            raise SchemaError(f"an index is missing; in mongosh: {statement}", operation="open", storage=self)
        # No timeout: it takes its time in a large collection.
        with mapped(self, "open", timeout=None, writing=True):
            try:
                await self._collection.create_index(field, collation=self._collation, **options)
            except DuplicateKeyError as error:
                problem = f"several documents have one {field}; delete all but one of each, then open again"
                raise SchemaError(problem, operation="open", storage=self) from error
            except OperationFailure as error:
                if error.code not in _INDEX_REFUSED:
                    raise
                problem = f"an index cannot be created; what is needed, in mongosh: {statement}"
                raise SchemaError(problem, operation="open", storage=self) from error

    def ddl(self) -> str:
        return "".join(f"{self._statement(index)}\n" for index in (_KEY_INDEX, _TTL_INDEX))

    def _statement(self, index: _Index) -> str:
        collection = f"db.getSiblingDB({json.dumps(self._database)}).getCollection({json.dumps(self._name)})"
        return (
            f"{collection}.createIndex({json.dumps({index[0]: 1})}, {json.dumps({**index[1], 'collation': SIMPLE})});"
        )

    def __repr__(self) -> str:
        return f"<MongoStorage {self._database}.{self._name}>"

    # ------------------------------------------------------------------ reading

    async def _find(self, operation: str, keys: Sequence[str]) -> dict[str, Record]:
        """Return the records of some keys, by one command."""
        which = keys[0] if len(keys) == 1 else {"$in": keys}
        found = await self._aggregate(operation, [{"$match": held(which)}, {"$project": commands.RECORD}], which)
        return {document["key"]: self._record(operation, document) for document in found}

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
            page = await self._aggregate(operation, [{"$match": held(bound)}, *rest])
            for document in page:
                if not document["key"].startswith(prefix):
                    return
                yield document
            if len(page) < batch_size:
                return
            bound = {"$gt": page[-1]["key"]}

    async def _aggregate(
        self, operation: str, pipeline: list[dict[str, Any]], key: object = None
    ) -> list[dict[str, Any]]:
        with mapped(self, operation, key if isinstance(key, str) else None, timeout=self._timeout):
            cursor = self._collection.aggregate(pipeline, collation=self._collation)
            if asyncio.iscoroutine(cursor):  # PyMongo's; Motor's is a cursor already
                cursor = await cursor
            return [document async for document in cursor]

    def _record(self, operation: str, document: dict[str, Any]) -> Record:
        value, deadline = document["value"], document.get("expires_at")
        with mapped(self, operation, document["key"], timeout=None):
            text = value if self._text and isinstance(value, str) else to_json(value)
        ttl = (int(deadline) - int(document["now"])) / 1000 if isinstance(deadline, DatetimeMS) else None
        return Record(text, to_version(value), ttl)

    # ------------------------------------------------------------------ writing

    def _to_stored(self, document: str) -> Any:
        return encodable(document) if self._text else to_bson(document)

    async def _apply(self, operation: str, key: str, command: Command) -> Result:
        with mapped(self, operation, key, timeout=self._timeout, writing=True):
            for _ in range(_TRIES - 1):
                with contextlib.suppress(DuplicateKeyError):
                    return await self._send(command)
            return await self._send(command)

    async def _send(self, command: Command) -> Result:
        filter_, update = command.filter, command.update
        result: Result
        if update is None:
            result = await self._collection.delete_one(filter_, collation=self._collation)
        else:
            result = await self._collection.update_one(
                filter_, update, upsert=command.upsert, collation=self._collation
            )
        return result

    async def _write_batch(self, writes: Sequence[Write]) -> list[WriteResult]:
        """Apply writes for different keys."""
        batch: list[tuple[str, Command]] = []
        versions: list[Version | None] = []
        for write in writes:
            if write.value is None:
                batch.append((write.key, commands.delete(write.key, write.match)))
                versions.append(None)
            else:
                stored = self._to_stored(write.value)
                batch.append((write.key, commands.write(write.key, stored, write.ttl, write.match)))
                versions.append(to_version(stored))
        together = self._tells_apart and len(batch) > 1
        results = await (self._apply_together(batch) if together else self._apply_each(batch))
        outcomes: list[WriteResult] = []
        for (key, command), version, result in zip(batch, versions, results, strict=True):
            if not command.holds(result):
                outcomes.append(self._conflict("write_many", key, command.match))
            else:
                outcomes.append(_deleted(result) if version is None else version)
        return outcomes

    async def _apply_together(self, batch: Sequence[tuple[str, Command]]) -> list[Result]:
        """Send commands for different keys as one, whose results the server tells apart."""
        models = [command.in_batch(self._collection.full_name, self._collation) for _, command in batch]
        with mapped(self, "write_many", timeout=self._timeout, writing=True):
            try:
                done = await self._collection.database.client.bulk_write(
                    models, ordered=False, verbose_results=True, write_concern=self._collection.write_concern
                )
            except ClientBulkWriteException as error:
                raced = all(each["code"] == _DUPLICATE_KEY for each in error.details["writeErrors"])
                if error.error or error.write_concern_errors or not raced or error.partial_result is None:
                    raise
                done = error.partial_result
        results: dict[int, Result] = {**done.update_results, **done.delete_results}
        return [
            results[i] if i in results else await self._apply("write_many", *batch[i])  # lost a race: try again
            for i in range(len(batch))
        ]

    async def _apply_each(self, batch: Sequence[tuple[str, Command]]) -> list[Result]:
        """Send commands for different keys one by one, some at a time."""
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def apply(key: str, command: Command) -> Result:
            async with slots:
                return await self._apply("write_many", key, command)

        results = await asyncio.gather(*(apply(*each) for each in batch), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]


def _deleted(result: Result) -> bool:
    return isinstance(result, DeleteResult) and result.deleted_count == 1


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _configured(collection: Any) -> Any:
    """Return the collection with our way of decoding, whatever the client's is, and reading from the primary."""
    if isinstance(collection, Collection) or not hasattr(collection, "with_options"):
        raise ConfigurationError("a collection of AsyncMongoClient or of Motor is needed, or a URL")
    if not collection.write_concern.acknowledged:
        raise ConfigurationError("a write concern of 0 tells nobody whether a write happened")
    return collection.with_options(codec_options=OPTIONS, read_preference=ReadPreference.PRIMARY)


def _database_of(url: str) -> str:
    """Return the name of the database in a URL, having checked the URL."""
    if not url.startswith("mongodb+srv:"):  # hosts and options of that are in the DNS, which is asked when it opens
        try:
            parse_uri(url)
        except (PyMongoError, ValueError) as error:
            raise ConfigurationError(f"not a URL of MongoDB: {error}") from error
    return unquote(urlsplit(url).path[1:]).partition(".")[0] or "bot_session"
