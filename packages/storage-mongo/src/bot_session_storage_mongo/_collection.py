"""The collection: its client, its indexes, and the way of commands to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from bot_session.errors import ConfigurationError, SchemaError, StorageError, UnavailableError, UnsupportedError
from bot_session.redaction import hide_secrets, redact_url
from bot_session.storage import part_of_batch
from bot_session.under_way import UnderWay
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import ClientBulkWriteException, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from ._commands import SIMPLE, Command, Result
from ._documents import OPTIONS
from ._errors import mapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motor.core import AgnosticCollection
    from pymongo.asynchronous.collection import AsyncCollection

    AnyCollection: TypeAlias = AsyncCollection[Any] | AgnosticCollection[Any]

__all__ = ["SessionCollection"]

_Index: TypeAlias = tuple[str, dict[str, Any]]

_KEY_INDEX: Final[_Index] = ("key", {"unique": True})
_TTL_INDEX: Final[_Index] = ("expires_at", {"expireAfterSeconds": 0})

_INDEX_REFUSED: Final = frozenset({
    13,  # Unauthorized
    67,  # CannotCreateIndex
    85,  # IndexOptionsConflict
    86,  # IndexKeySpecsConflict
})  # fmt: skip

_IN_FLIGHT: Final = 8
"""Commands that are under way at once for a batch, where a server has no batches that tell their results apart."""

_TRIES: Final = 5
"""Of two upserts of a key at once the server refuses one, which finds the other's document at its next try."""

_MONGODB_4_4: Final = 9
_MONGODB_8_0: Final = 25
"""Versions of the wire protocol."""


class SessionCollection:
    """
    Where the sessions are. Commands reach it in time, and what the driver raises becomes an error of ours.

    Args:
        source: As `MongoStorage` takes it, and so are the others.
        name: The collection's name, for a URL.
        database: The database's name, for a URL.
        timeout: Seconds.

    Attributes:
        tells_apart: Whether the server has batches that tell the results of their operations apart.
        under_way: What closing waits for: every command, and whatever takes several.
    """

    def __init__(self, source: AnyCollection | str, *, name: str, database: str | None, timeout: float | None) -> None:
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ConfigurationError(f"timeout is a number of seconds above 0, or None, not {timeout!r}")
        self._url = source if isinstance(source, str) else None
        self._client: AsyncMongoClient[Any] | None = None
        self._collection: Any = None
        if isinstance(source, str):
            in_url = _database_of(source)
            self._database, self._name = database or in_url, name
        else:
            self._collection = _configured(source)
            self._database, self._name = self._collection.database.name, self._collection.name
        self._timeout = timeout
        self._collation: dict[str, Any] | None = None
        self.tells_apart = False
        self.under_way = UnderWay()

    def __repr__(self) -> str:
        return f"<MongoStorage {self._database}.{self._name}>"

    # ------------------------------------------------------------------ life

    async def open(self, *, create: bool) -> None:
        """Connect, see whether the server is new enough, and to the indexes."""
        await self.under_way.closed()
        try:
            if self._url is not None:
                with mapped(self, "open", timeout=None):
                    self._client = AsyncMongoClient(self._url)
                    self._collection = _configured(self._client[self._database][self._name])
            await self._prepare(create=create)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the client, if it is ours, once what is under way has come to its end."""
        if self._client is not None:
            await self.under_way.close(self._close_client)

    async def _close_client(self) -> None:
        client, self._client, self._collection = self._client, None, None
        if client is not None:
            await client.close()

    async def _prepare(self, *, create: bool) -> None:
        with mapped(self, "open", timeout=self._timeout):
            wire = (await self._collection.database.command("hello"))["maxWireVersion"]
            options = await self._collection.options()
            indexes = list((await self._collection.index_information()).values())
        if wire < _MONGODB_4_4:
            raise UnsupportedError("MongoDB 4.4 or newer is needed", operation="open", storage=self)
        self.tells_apart = wire >= _MONGODB_8_0
        self._collation = SIMPLE if "collation" in options else None
        if not any(index["key"] == [("key", 1)] and index.get("unique") for index in indexes):
            await self._create_index(_KEY_INDEX, create=create)
        if not any(index["key"] == [("expires_at", 1)] and "expireAfterSeconds" in index for index in indexes):
            await self._create_index(_TTL_INDEX, create=create)

    async def _create_index(self, index: _Index, *, create: bool) -> None:
        field, options = index
        statement = self._statement(index)
        if not create:
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
        """Return the statements that create the indexes, for mongosh."""
        return "".join(f"{self._statement(index)}\n" for index in (_KEY_INDEX, _TTL_INDEX))

    def _statement(self, index: _Index) -> str:
        collection = f"db.getSiblingDB({json.dumps(self._database)}).getCollection({json.dumps(self._name)})"
        return (
            f"{collection}.createIndex({json.dumps({index[0]: 1})}, {json.dumps({**index[1], 'collation': SIMPLE})});"
        )

    # ------------------------------------------------------------------ commands

    async def aggregate(
        self, operation: str, pipeline: list[dict[str, Any]], key: object = None
    ) -> list[dict[str, Any]]:
        """Return the documents that come out of a pipeline; ``key`` is for errors, if it is one."""
        with self.under_way, mapped(self, operation, _named(key), timeout=self._timeout):
            cursor = self._collection.aggregate(pipeline, collation=self._collation)
            if asyncio.iscoroutine(cursor):  # PyMongo's; Motor's is a cursor already
                cursor = await cursor
            return [document async for document in cursor]

    async def find(self, operation: str, key: object, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return fields of the documents that are stored under a key, or a condition on it: the server's fastest command."""
        with self.under_way, mapped(self, operation, _named(key), timeout=self._timeout):
            cursor = self._collection.find({"key": key}, fields, collation=self._collation)
            return [document async for document in cursor]

    async def delete_many(self, filter_: Mapping[str, Any]) -> int:
        """Delete what a filter finds, and return how much."""
        with self.under_way, mapped(self, "delete_many", timeout=self._timeout, writing=True):
            result = await self._collection.delete_many(filter_, collation=self._collation)
        deleted: int = result.deleted_count
        return deleted

    async def apply(self, operation: str, key: str, command: Command) -> Result:
        """Apply a command, and return what the server did."""
        with self.under_way, mapped(self, operation, key, timeout=self._timeout, writing=True):
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

    async def apply_all(self, batch: Sequence[tuple[str, Command]]) -> Sequence[Result | StorageError]:
        """Apply commands for different keys, and return the result of each, or why the server refuses it."""
        results: dict[int, Result | StorageError] = {}
        if self.tells_apart and len(batch) > 1:
            try:
                results = await self._apply_together(batch)
            except UnavailableError:
                raise
            except StorageError:
                pass  # Refused as a whole, so nothing of it was written.
        # What lost a race is tried again, and what was refused tells alone what is wrong with it.
        missing = [position for position in range(len(batch)) if position not in results]
        with part_of_batch(results):
            again = await self._apply_each([batch[position] for position in missing])
        results.update(zip(missing, again, strict=True))
        return [results[position] for position in range(len(batch))]

    async def _apply_together(self, batch: Sequence[tuple[str, Command]]) -> dict[int, Result | StorageError]:
        """
        Send commands as one, whose results the server tells apart; those that failed alone have none.

        They have to fit into one message: of what does not, the driver makes several commands, and forgets what came of
        the first as it tries the second again.
        """
        models = [command.in_batch(self._collection.full_name, self._collation) for _, command in batch]
        with mapped(self, "write_many", timeout=self._timeout, writing=True):
            try:
                done = await self._collection.database.client.bulk_write(
                    models, ordered=False, verbose_results=True, write_concern=self._collection.write_concern
                )
            except ClientBulkWriteException as error:
                if error.error or error.write_concern_errors:
                    raise
                done = error.partial_result
        return {**done.update_results, **done.delete_results} if done is not None else {}

    async def _apply_each(self, batch: Sequence[tuple[str, Command]]) -> list[Result | StorageError]:
        """Send commands one by one, some at a time."""
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def apply(key: str, command: Command) -> Result:
            async with slots:
                return await self.apply("write_many", key, command)

        outcomes = await asyncio.gather(*(apply(*each) for each in batch), return_exceptions=True)
        results: list[Result | StorageError] = []
        outages: list[UnavailableError] = []
        for outcome in outcomes:
            if isinstance(outcome, UnavailableError):
                outages.append(outcome)
            elif isinstance(outcome, BaseException) and not isinstance(outcome, StorageError):
                raise outcome
            else:
                results.append(outcome)
        if outages:
            unknown = any(outage.outcome_unknown for outage in outages)
            with part_of_batch(unknown or not all(isinstance(result, StorageError) for result in results)):
                raise outages[0]
        return results


def _named(key: object) -> str | None:
    return key if isinstance(key, str) else None


def _configured(collection: Any) -> Any:
    """Return the collection with our way of decoding, whatever the client's is, and reading from the primary."""
    if isinstance(collection, Collection) or not hasattr(collection, "with_options"):
        raise ConfigurationError("a collection of AsyncMongoClient or of Motor is needed, or a URL")
    if not collection.write_concern.acknowledged:
        raise ConfigurationError("a write concern of 0 tells nobody whether a write happened")
    return collection.with_options(codec_options=OPTIONS, read_preference=ReadPreference.PRIMARY)


def _database_of(url: str) -> str:
    """Return the name of the database in a URL, having checked the URL."""
    try:
        _, _, path, query, fragment = urlsplit(url)
        ambiguous = "@" in path + query + fragment
        # The hosts and options of mongodb+srv: are in the DNS, which is asked when it opens.
        if not ambiguous and not url.startswith("mongodb+srv:"):
            parse_uri(url)
    except (PyMongoError, ValueError) as error:
        # Not its cause: PyMongo may quote a piece of the password.
        raise ConfigurationError(f"not a URL of MongoDB: {hide_secrets(str(error), url)}") from None
    if ambiguous:
        raise ConfigurationError(
            f"write %40, %2F, %3F and %23 for '@', '/', '?' and '#' in a password: {redact_url(url)}"
        )
    return unquote(path[1:]).partition(".")[0] or "bot_session"
