"""Sessions in Redis or Valkey, as grammY and GramIO keep them: a string ``key`` that holds the document."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bot_session.errors import ConfigurationError, SchemaError, StorageError, UnavailableError
from bot_session.storage import ANY, Capabilities, Match, Record, Storage, Version, Write, part_of_batch
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError

from ._clients import Client, Closing, connect
from ._errors import mapped
from ._links import Cluster, Link, Single, shut
from ._listing import Cursor, Seen, key_of, pattern
from ._plain import Plain
from ._scripts import READ, TOUCH, WRITE, WRITE_THEN_READ, Script, arguments_of, life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Self

    from bot_session.storage import WriteResult, WrittenAndRead

__all__ = ["RedisStorage"]

_BATCH: Final = 1_000
"""Keys in one script call: the server hears nobody else meanwhile, and takes a million arguments at most."""


class RedisStorage(Storage):
    """
    Keeps documents as strings in Redis or Valkey: one server, several under Sentinel, or a Cluster.

    Expiry is the server's own, in milliseconds. Keys of other types than string are never touched.

    Args:
        client: A URL as for `from_url`; or a client of ``redis.asyncio``, which stays open and keeps its own
            timeouts besides these, with ``decode_responses`` or without.
        timeout: Seconds to wait for a connection, for each answer, and for a connection to become free.
        max_connections: How many connections to have at most; in a cluster, to each node. What is more waits.
        sentinel_username: User name for the sentinels, if they ask for one.
        sentinel_password: Password for the sentinels, if they ask for one.

    Raises:
        ConfigurationError: The URL is wrong, or the client is of another kind.
    """

    capabilities = Capabilities(
        shared=True,
        durable=False,  # as Redis comes, a crash loses what was written since its last snapshot
        native_expiry=True,
        ttl_resolution=0.001,
        atomic_batches=False,  # a cluster cannot
        max_value_bytes=512 * 1024 * 1024,
    )
    driver_query: ClassVar[bool] = True

    def __init__(
        self,
        client: str | Client,
        *,
        timeout: float = 5.0,
        max_connections: int = 50,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        if not timeout > 0 or max_connections < 1:
            raise ConfigurationError("timeout must be above 0 and max_connections at least 1")
        self._close_client: Closing | None = None
        if isinstance(client, str):
            client, self._close_client = connect(
                client,
                timeout=timeout,
                max_connections=max_connections,
                sentinel_username=sentinel_username,
                sentinel_password=sentinel_password,
            )
        self._link: Link
        self._plain: Plain | None = None
        if isinstance(client, Redis):
            self._link = single = Single(client, max_connections, timeout)
            self._plain = Plain(single)
        elif isinstance(client, RedisCluster):
            self._link = Cluster(client, max_connections, timeout)
        else:
            raise ConfigurationError(f"a URL or a client of redis.asyncio is needed, not {type(client).__name__}")

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """
        Make one from a URL.

        ``redis://``, ``rediss://`` (TLS), ``valkey://``, ``valkeys://``, ``redis+unix:///path``, ``redis+cluster://``,
        ``redis+sentinel://host:26379,host:26379/service/db``, and ``rediss+…`` for TLS with the last two. Options in
        the query that are not the class's go to redis-py.
        """
        return cls(url, **options)

    async def read(self, key: str) -> Record | None:
        if self._state != "open":
            await self._ready("read", key)
        self._validate("read", key)
        raw = key.encode()
        if self._plain is None:
            [(value, left)] = await self._run(READ, "read", key, [raw])
        else:
            with mapped("read", key, self, writes=False):
                value, left = await self._plain.read(raw)
        return None if value is None else self._record("read", key, value, left)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        self._validate("write", key, value, ttl)
        await self._change("write", Write(key, value, ttl, match))
        return Version(value)

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        if self._state != "open":
            await self._ready("delete", key)
        self._validate("delete", key)
        return await self._change("delete", Write(key, None, None, match)) is True

    async def touch(self, key: str, ttl: float | None) -> bool:
        if self._state != "open":
            await self._ready("touch", key)
        self._validate("touch", key, ttl=ttl)
        return bool(await self._run(TOUCH, "touch", key, [key.encode()], [life(ttl)]))

    async def has(self, key: str) -> bool:
        if self._state != "open":
            await self._ready("has", key)
        self._validate("has", key)
        raw = key.encode()
        with mapped("has", key, self, writes=False):
            kind = await self._link.send(raw, b"TYPE", raw)
        if kind not in (b"string", b"none"):
            raise self._foreign("has", key, kind.decode())
        return bool(kind == b"string")

    async def read_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if self._state != "open":
            await self._ready("read_many")
        distinct = list(dict.fromkeys(keys))
        self._validate_keys("read_many", distinct)
        answers = await self._run_many(READ, "read_many", [key.encode() for key in distinct], [()] * len(distinct))
        return self._records("read_many", distinct, answers)

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._state != "open":
            await self._ready("write_many")
        self._validate_writes("write_many", writes)
        keys = [write.key.encode() for write in writes]
        answers = await self._run_many(WRITE, "write_many", keys, [arguments_of(write) for write in writes])
        return [self._result("write_many", write, answer) for write, answer in zip(writes, answers, strict=True)]

    async def write_then_read(self, rounds: Sequence[Sequence[Write]], keys: Sequence[str] = ()) -> WrittenAndRead:
        if self._state != "open":
            await self._ready("write_then_read")
        writes = [write for writes in rounds for write in writes]
        self._validate_writes("write_then_read", writes)
        self._validate_keys("write_then_read", keys)
        all_keys = [write.key.encode() for write in writes] + [key.encode() for key in keys]
        if not 0 < len(all_keys) <= _BATCH or len(self._link.together(all_keys)) > 1:
            return await super().write_then_read(rounds, keys)
        arguments = [argument for write in writes for argument in arguments_of(write)]
        answers = await self._run(WRITE_THEN_READ, "write_then_read", None, all_keys, arguments)
        read = answers[len(writes) :]
        results = [
            self._result("write_then_read", write, answer) for write, answer in zip(writes, answers, strict=False)
        ]
        try:
            found = None if None in read else self._records("write_then_read", keys, read)
        except SchemaError:
            found = None
        return results, found

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        if self._state != "open":
            await self._ready("read_all_keys")
        self._validate_listing("read_all_keys", prefix, batch_size)
        seen = Seen()
        narrowed = (b"MATCH", pattern(prefix), b"COUNT", b"%d" % batch_size, b"TYPE", b"string")
        with mapped("read_all_keys", None, self, writes=False):
            masters = await self._link.masters()
        for master in masters:
            cursor = Cursor()
            while True:
                if self._state != "open":
                    await self._ready("read_all_keys")
                with mapped("read_all_keys", None, self, writes=False):
                    cursor, page = await self._link.scan(master, cursor, *narrowed)
                for raw in seen.fresh(page):
                    if (key := key_of(raw)) is not None:
                        yield key
                if cursor.position == 0:
                    break

    async def _open(self) -> None:
        try:
            with mapped("open", None, self, writes=False):
                await self._link.open()
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        await shut(self._link, self._close_client)

    async def _change(self, operation: str, write: Write) -> Version | bool:
        """Run one write or delete."""
        if self._plain is not None and write.value is not None:
            with mapped(operation, write.key, self, writes=True):
                if await self._plain.set(write):
                    return Version(write.value)
        [answer] = await self._run(WRITE, operation, write.key, [write.key.encode()], arguments_of(write))
        result = self._result(operation, write, answer)
        if isinstance(result, StorageError):
            raise result
        return result

    async def _run_many(
        self, script: Script, operation: str, keys: list[bytes], arguments: Sequence[Sequence[Any]]
    ) -> list[Any]:
        """Run a script for many keys, in as few calls as the servers allow, and return the answer for each."""
        answers: list[Any] = [None] * len(keys)

        async def run(positions: list[int]) -> None:
            given = list(chain.from_iterable(map(arguments.__getitem__, positions)))
            try:
                found = await self._run(script, operation, None, list(map(keys.__getitem__, positions)), given)
            except StorageError as error:
                if not script.writes or isinstance(error, UnavailableError):
                    raise
                found = [error] * len(positions)  # what other calls wrote is written
            for position, answer in zip(positions, found, strict=True):
                answers[position] = answer

        calls = []
        for group in self._link.together(keys):
            calls += [run(group[start : start + _BATCH]) for start in range(0, len(group), _BATCH)]
        # Not a TaskGroup: an error must not cancel the other calls midway, when nobody knows what they did.
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        in_doubt = (outcome is None or getattr(outcome, "outcome_unknown", False) for outcome in outcomes)
        with part_of_batch(script.writes and any(in_doubt)):
            for failure in filter(None, outcomes):
                raise failure
        return answers

    async def _run(
        self, script: Script, operation: str, key: str | None, keys: Sequence[bytes], arguments: Sequence[Any] = ()
    ) -> Any:
        """Run a script, all of whose keys are in one slot."""
        given = b"%d" % len(keys), *keys, *arguments
        with mapped(operation, key, self, writes=script.writes):
            try:
                return await self._link.send(keys[0], b"EVALSHA", script.sha, *given)
            except NoScriptError:  # the server is new, or was restarted; it has done nothing
                return await self._link.send(keys[0], b"EVAL", script.source, *given)

    def _records(self, operation: str, keys: Sequence[str], answers: Sequence[Any]) -> dict[str, Record]:
        found = zip(keys, answers, strict=True)
        return {key: self._record(operation, key, *answer) for key, answer in found if answer[0] is not None}

    def _record(self, operation: str, key: str, value: bytes, left: int) -> Record:
        document = self._text(operation, key, value)
        # A document in its last millisecond has 0 left, yet lives.
        return Record(document, Version(document), None if left < 0 else max(left, 1) / 1000)

    def _result(self, operation: str, write: Write, answer: Any) -> WriteResult:
        if isinstance(answer, int):
            return bool(answer) if write.value is None else Version(write.value)
        if isinstance(answer, StorageError):
            return answer
        if isinstance(answer, bytes):
            return self._foreign(operation, write.key, answer.decode())
        stored = answer[0]
        actual = None if stored is None else Version(stored.decode(errors="replace"))
        return self._conflict(operation, write.key, write.match, actual)

    def _text(self, operation: str, key: str, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise self._foreign(operation, key, "string that is no text") from error

    def _foreign(self, operation: str, key: str, kind: str) -> SchemaError:
        problem = f"the key holds a {kind}: it belongs to another program"
        return SchemaError(problem, operation=operation, key=key, storage=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._link.name}>"
