"""Sessions in Supabase."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from bot_session.errors import ClosedError, ConfigurationError, StorageError, UnavailableError
from bot_session.redaction import hide_secrets, redact_url
from bot_session.storage import ANY, Capabilities, Match, Record, Storage, Version, Write, part_of_batch
from bot_session.under_way import UnderWay
from supabase import AsyncClient, AsyncClientOptions, AsyncSupabaseException

from ._errors import HIDDEN, mapped
from ._schema import function_name, render
from ._wire import AT_ONCE, Answer, Conflict, Row, chunks, item_of, record_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Self

    from bot_session.storage import WriteResult, WrittenAndRead

__all__ = ["SupabaseStorage"]

T = TypeVar("T")

_PURGED_AT_ONCE: Final = 10_000
"""How many rows a call of `SupabaseStorage.purge` deletes, to stay below Supabase's statement timeout."""


class SupabaseStorage(Storage):
    """
    Keeps documents in a table of Supabase, in grammY's layout, through PostgREST.

    The table and a few functions have to be there: run what `ddl` returns in Supabase's SQL editor, once.

    Args:
        project: The project's address, such as ``https://abcdefgh.supabase.co``; or an `supabase.AsyncClient`, which
            stays open and keeps its own timeouts.
        key: The service key; for an address.
        schema: The schema of the table, ``public`` by default; for an address. A client has one of its own.
        table: The table.
        key_column: The column of the keys.
        value_column: The column of the documents: text, varchar, json or jsonb.
        expires_column: The column of the expiry times.
        timeout: Seconds to wait for a connection, and for each part of an answer, whose whole may take twice as long;
            for an address.
    """

    capabilities = Capabilities(
        shared=True,
        durable=True,
        native_expiry=False,
        ttl_resolution=1e-6,
        atomic_batches=False,
        max_key_bytes=2_048,
        max_value_bytes=8 * 1024 * 1024,
    )

    def __init__(
        self,
        project: str | AsyncClient,
        *,
        key: str | None = None,
        schema: str | None = None,
        table: str = "sessions",
        key_column: str = "id",
        value_column: str = "session",
        expires_column: str = "expires_at",
        timeout: float = 10.0,
    ) -> None:
        if isinstance(project, str):
            if not project.startswith(("https://", "http://")):
                raise ConfigurationError(f"the project's address begins with https://, unlike {redact_url(project)!r}")
            schema = schema or "public"
            key = (key or "").strip()  # A file or a variable with a secret often ends in a newline.
        elif key is not None or schema is not None:
            raise ConfigurationError("a client brings its own key and schema: set them where it is made")
        else:
            schema = str(project.options.schema)
            key = project.supabase_key
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise ConfigurationError("no key has other characters than printable ASCII, or spaces around it")
        self._project = project
        self._key = key
        self._schema = schema
        self._table = table
        self._timeout = timeout
        self._longest = 2 * timeout if isinstance(project, str) else None
        self._http: httpx.AsyncClient | None = None
        self._under_way = UnderWay()
        self._client = project if isinstance(project, AsyncClient) else None
        self._ddl = render(schema, table, key_column, value_column, expires_column)

    @classmethod
    def from_url(cls, url: str, *, key: str | None = None, tls: bool = True, **options: Any) -> Self:
        """
        Make one from ``supabase://<project>.supabase.co?key=…``.

        The key may be left out if it is in the environment as ``SUPABASE_KEY``. ``tls=false`` speaks plain HTTP, as
        Supabase on one's own machine does: ``supabase://127.0.0.1:54321?tls=false``.
        """
        problem = f"write supabase://<project>.supabase.co?key=<service key>, not {redact_url(url)}"
        try:
            address = urlsplit(url)
        except ValueError:  # It may quote a password.
            raise ConfigurationError(problem) from None
        if not address.hostname or address.query or "@" in address.netloc:
            raise ConfigurationError(problem)
        project = f"{'https' if tls else 'http'}://{address.netloc}{address.path}"
        return cls(project, key=key or os.environ.get("SUPABASE_KEY"), **options)

    def ddl(self) -> str:
        return self._ddl

    async def _open(self) -> None:
        await self._under_way.closed()
        try:
            if isinstance(self._project, str):
                self._connect(self._project)
            await self._rows("open", [])
        except BaseException:
            await self._close()
            raise

    def _connect(self, project: str) -> None:
        if not self._key:
            raise ConfigurationError("Supabase needs a key: the service key of the project's settings")
        # Not HTTP/2: its header compression logs headers, and with them the key, at level DEBUG.
        with mapped(writing=False, secret=self._key, operation="open", storage=self):  # It reads certificates.
            self._http = httpx.AsyncClient(timeout=self._timeout)
        options = AsyncClientOptions(schema=self._schema, httpx_client=self._http, auto_refresh_token=False)
        try:
            self._client = AsyncClient(project, self._key, options)
        except (AsyncSupabaseException, ValueError) as error:
            reason = hide_secrets(str(error), project).replace(self._key, HIDDEN)
            # Not its cause: it may quote what is hidden here.
            raise ConfigurationError(f"no project has the address {redact_url(project)}: {reason}") from None

    async def _close(self) -> None:
        # httpx forgets a connection that is being made while it closes. Every request ends in time.
        if self._http is not None:
            await self._under_way.close(self._close_client)

    async def _close_client(self) -> None:
        http, self._http, self._client = self._http, None, None
        if http is not None:
            await http.aclose()

    # ------------------------------------------------------------------ reading

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        rows = await self._rows("read", [key], key)
        return record_of(rows[0]) if rows else None

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        self._validate_keys("read_many", keys)
        found: dict[str, Record] = {}
        with self._under_way:
            for chunk in chunks(dict.fromkeys(keys), len):
                found.update((row[0], record_of(row)) for row in await self._rows("read_many", chunk))
        return found

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for row in self._pages("read_all_keys", prefix, batch_size, documents=False):
            yield row[0]

    async def read_all_entries(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[tuple[str, Record]]:
        async for row in self._pages("read_all_entries", prefix, batch_size, documents=True):
            yield row[0], record_of(row)

    async def _rows(self, operation: str, keys: Sequence[str], key: str | None = None) -> list[Row]:
        return await self._call("read", keys, list[Row], operation, key)

    async def _pages(self, operation: str, prefix: str, batch_size: int, *, documents: bool) -> AsyncIterator[Any]:
        if self._state != "open":
            await self._ready(operation)
        self._validate_listing(operation, prefix, batch_size)
        argument = {"prefix": prefix, "after": None, "size": min(batch_size, AT_ONCE), "documents": documents}
        answer: Any = list[Row] if documents else list[tuple[str]]
        while rows := await self._call("page", argument, answer, operation):
            for row in rows:
                yield row
            if self._state != "open":
                await self._ready(operation)
            argument["after"] = rows[-1][0]

    # ------------------------------------------------------------------ writing

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        version: Version = await self._write_one("write", Write(key, value, ttl, match))
        return version

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        existed: bool = await self._write_one("delete", Write(key, None, None, match))
        return existed

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        return await self._call("touch", {"key": key, "ttl": ttl}, bool, "touch", key, writing=True)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        results: list[WriteResult] = []
        with self._under_way:
            for chunk in chunks(writes, lambda write: len(write.key) + len(write.value or "")):
                with part_of_batch(results):
                    results += await self._write_chunk(chunk)
        return results

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        # A batch goes in one transaction, or in several one after the other: rounds need no more.
        return await super().write_then_read([[write for writes in rounds for write in writes]], keys)

    async def purge(self) -> int:
        if self._state != "open":
            await self._ready("purge")
        purged = 0
        with self._under_way:
            while count := await self._call("purge", {"size": _PURGED_AT_ONCE}, int, "purge", writing=True):
                purged += count
        return purged

    async def _write_chunk(self, writes: Sequence[Write]) -> list[WriteResult]:
        """Write what is one transaction; if it is refused, each alone, to see for whose sake."""
        try:
            return await self._write("write_many", writes)
        except UnavailableError:
            raise
        except StorageError as error:
            if len(writes) == 1:
                return [error]
        results: list[WriteResult] = []
        for write in writes:
            with part_of_batch(results):
                results += await self._write_chunk([write])
        return results

    async def _write_one(self, operation: str, write: Write) -> Any:
        (result,) = await self._write(operation, [write], write.key)
        if isinstance(result, StorageError):
            raise result
        return result

    async def _write(self, operation: str, writes: Sequence[Write], key: str | None = None) -> list[WriteResult]:
        items = [item_of(write) for write in writes]
        answers = await self._call("write", items, list[Version | bool | Conflict], operation, key, writing=True)
        if len(answers) != len(writes):
            problem = "the answer is not one of Supabase's"
            raise UnavailableError(problem, operation=operation, key=key, storage=self, outcome_unknown=True)
        return [
            self._conflict(operation, write.key, write.match, answer.actual) if isinstance(answer, Conflict) else answer
            for write, answer in zip(writes, answers, strict=True)
        ]

    async def _call(
        self,
        function: str,
        argument: object,
        answer_type: type[T],
        operation: str,
        key: str | None = None,
        *,
        writing: bool = False,
    ) -> T:
        """Call a function in the database. Whatever is not the answer that it gives is an error."""
        client = self._client
        if client is None:  # closed between two requests of one call
            raise ClosedError("the storage was closed meanwhile", operation=operation, key=key, storage=self)
        with self._under_way, mapped(writing=writing, secret=self._key, operation=operation, key=key, storage=self):
            async with asyncio.timeout(self._longest):  # To httpx, an answer that drips is never late.
                request = client.rpc(function_name(self._table, function), {"p_argument": argument})
                response = await request.execute()
            return msgspec.convert(response.data, Answer[answer_type]).answer  # type: ignore[valid-type]

    def __repr__(self) -> str:
        address = self._project if isinstance(self._project, str) else str(self._project.supabase_url)
        return f"<SupabaseStorage {self._schema}.{self._table} at {redact_url(address)}>"
