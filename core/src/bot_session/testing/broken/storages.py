"""Broken in what they keep. The docstring of each says what is wrong; ``caught_by`` names the test that must fail."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import unicodedata
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from bot_session.errors import ConflictError, UnavailableError
from bot_session.storage import ABSENT, ANY, Match, Record, Version, Write, WriteResult, conflicts_only, holds

from .sound import SoundStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .sound import Client, Database

__all__ = ["Broken"]

PAGE = 1_000


class Broken(SoundStorage):
    """A storage with one fault."""

    caught_by: ClassVar[str]
    """The test of the contract that must fail."""


# ---------------------------------------------------------------------- documents and keys


class ReencodesNumbers(Broken):
    """Decodes documents on the way and writes every number as a float."""

    caught_by = "test_a_document_comes_back_as_it_was"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key, json.dumps(json.loads(value, parse_int=float)), ttl=ttl, match=match)


class WritesInHalves(Broken):
    """Writes in place and not at once: a reader, or a crash, finds half a document."""

    caught_by = "test_a_reader_never_sees_half_a_document"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        version = await super().write(key, value, ttl=ttl, match=match)
        _, deadline = self._entries[key]
        self._entries[key] = (value[: len(value) // 2], deadline)
        await asyncio.sleep(0)
        self._entries[key] = (value, deadline)
        return version


class CachesReads(Broken):
    """Remembers what it read and never hears that another process changed it."""

    caught_by = "test_shared_means_that_others_see_what_is_written"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._cache: dict[str, Record] = {}

    async def read(self, key: str) -> Record | None:
        if key not in self._cache:
            record = await super().read(key)
            if record is None:
                return None
            self._cache[key] = record
        return self._cache[key]


class CutsLongDocuments(Broken):
    """Says that it has no limit and cuts documents at four megabytes."""

    caught_by = "test_the_longest_document_is_taken_and_one_byte_more_is_refused"
    capabilities = replace(SoundStorage.capabilities, max_value_bytes=None)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key, value[: 4 * 1024 * 1024], ttl=ttl, match=match)


class NullIsNothing(Broken):
    """Asks whether there is a value where it should ask whether there is a row: ``null`` is a document too."""

    caught_by = "test_a_document_comes_back_as_it_was"

    async def has(self, key: str) -> bool:
        record = await self.read(key)
        return record is not None and record.value != "null"


class ShowsDocuments(Broken):
    """Prints versions, which are the documents here, where it tells of a conflict: the logs are full of users' data."""

    caught_by = "test_documents_do_not_show_in_errors_or_reprs"

    def _conflict(self, operation: str, key: str, match: Match, actual: Version | None = None) -> ConflictError:
        reason = f"expected {match}, found {actual}"
        return ConflictError(reason, operation=operation, key=key, storage=self, expected=match, actual=actual)


class BlindToCase(Broken):
    """Keeps keys in a column, or files on a disk, that ignores case: two people share a session."""

    caught_by = "test_case_is_told_apart"

    async def read(self, key: str) -> Record | None:
        return await super().read(key.lower())

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key.lower(), value, ttl=ttl, match=match)


class NormalizesKeys(Broken):
    """Composes the characters of keys, as some file systems do."""

    caught_by = "test_composed_and_combining_characters_are_told_apart"

    async def read(self, key: str) -> Record | None:
        return await super().read(unicodedata.normalize("NFC", key))

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(unicodedata.normalize("NFC", key), value, ttl=ttl, match=match)


class CutsLongKeys(Broken):
    """Cuts keys to the length of its column or file name, silently."""

    caught_by = "test_long_keys_are_not_cut"

    async def read(self, key: str) -> Record | None:
        return await super().read(key[:120])

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key[:120], value, ttl=ttl, match=match)


# ---------------------------------------------------------------------- expiry


class IgnoresTtl(Broken):
    """Takes a TTL and forgets it."""

    caught_by = "test_a_document_expires_by_the_clock_and_not_before"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key, value, ttl=ttl and 3_600.0, match=match)


class WholeDaysAreZero(Broken):
    """Takes ``timedelta.seconds`` for the length of a timedelta: after a whole day's TTL the session is gone."""

    caught_by = "test_the_remaining_ttl_is_reported_and_rounded_up_never_down"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if ttl is not None and ttl >= 86_400:
            ttl = timedelta(seconds=ttl).seconds or 1e-9
        return await super().write(key, value, ttl=ttl, match=match)


class RoundsTtlDown(Broken):
    """Cuts a TTL to whole seconds: sessions die early, short ones at once."""

    caught_by = "test_the_remaining_ttl_is_reported_and_rounded_up_never_down"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if ttl is not None and ttl > 1:
            ttl = int(ttl)
        return await super().write(key, value, ttl=ttl, match=match)


class ReplacingKeepsTtl(Broken):
    """Updates the document but not its expiry: a session meant to stay dies by the old deadline."""

    caught_by = "test_replacing_clears_the_ttl"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        record = self._live(key)
        if ttl is None and record is not None:
            ttl = record.ttl
        return await super().write(key, value, ttl=ttl, match=match)


class HasSeesExpired(Broken):
    """Asks whether there is a row, not whether it has expired."""

    caught_by = "test_expired_is_absent_for_has"

    async def has(self, key: str) -> bool:
        return await super().has(key) or key in self._entries


class ExpiredBlocksAbsent(Broken):
    """Inserts with "on conflict do nothing": an expired row that nobody removed is in the way."""

    caught_by = "test_expired_is_absent_for_a_write_under_absent"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if match is ABSENT and key in self._entries:
            raise self._conflict("write", key, match)
        return await super().write(key, value, ttl=ttl, match=match)


class ReportsTheFirstTtl(Broken):
    """Reports the TTL that was set instead of what is left of it: whoever copies a session prolongs its life."""

    caught_by = "test_a_document_expires_by_the_clock_and_not_before"

    def _live(self, key: str) -> Record | None:
        record = super()._live(key)
        if record is None or record.ttl is None:
            return record
        return Record(record.value, record.version, self._clock() + record.ttl - self.database.created)


class LookingProlongs(Broken):
    """Gives a document that is listed a new TTL: an export keeps everybody's sessions alive."""

    caught_by = "test_a_document_expires_by_the_clock_and_not_before"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key in super().read_all_keys(prefix, batch_size=batch_size):
            record = self._live(key)
            if record is not None and record.ttl is not None:
                self._entries[key] = (record.value, self._clock() + 600.0)
            yield key


class TouchesWhatWasDeleted(Broken):
    """Touches by writing back what it has read: what is deleted in between is there again."""

    caught_by = "test_touch_brings_nothing_back_that_is_deleted_meanwhile"

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._validate("touch", key, ttl=ttl)
        record = await self.read(key)
        if record is None:
            return False
        await asyncio.sleep(0)
        await self.write(key, (self._live(key) or record).value, ttl=ttl)
        return True


class TouchResurrects(Broken):
    """Touches with an upsert, or without asking for the expiry: the dead come back."""

    caught_by = "test_touch_never_brings_anything_to_life"

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._validate("touch", key, ttl=ttl)
        if key not in self._entries:
            return False
        await self.write(key, self._entries[key][0], ttl=ttl)
        return True


class TouchLosesWrites(Broken):
    """Touches by reading and writing back: what was written in between is lost."""

    caught_by = "test_touch_loses_no_write"

    async def touch(self, key: str, ttl: float | None) -> bool:
        self._validate("touch", key, ttl=ttl)
        record = await self.read(key)
        if record is None:
            return False
        await self.write(key, record.value, ttl=ttl)
        return True


# ---------------------------------------------------------------------- compare-and-set


class IgnoresMatch(Broken):
    """Takes a match and writes anyway: the last writer wins, the others' changes are lost."""

    caught_by = "test_no_increment_is_lost_between_two_instances"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:  # noqa: ARG002
        return await super().write(key, value, ttl=ttl)


class Upserts(Broken):
    """Writes with "insert … on conflict update … where version": where nothing is, the insert brings it back."""

    caught_by = "test_a_version_never_brings_back_what_was_deleted"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return await super().write(key, value, ttl=ttl, match=ANY if self._live(key) is None else match)


class LooksThenWrites(Broken):
    """Checks first and writes later: of many who find nothing, all write."""

    caught_by = "test_of_many_writers_under_absent_one_wins"

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if not holds(match, await self.read(key)):
            raise self._conflict("write", key, match)
        return await super().write(key, value, ttl=ttl)


class DeletesAnyway(Broken):
    """Matches writes but not deletes: a logout based on an old state removes a new session."""

    caught_by = "test_the_version_from_before_a_change_fails"

    async def delete(self, key: str, *, match: Match = ANY) -> bool:  # noqa: ARG002
        return await super().delete(key)


class ComparesWithoutCase(Broken):
    """Compares documents in a column that ignores case: two that differ in nothing else have one version."""

    caught_by = "test_documents_that_are_nearly_alike_have_versions_of_their_own"

    def _live(self, key: str) -> Record | None:
        record = super()._live(key)
        return record and Record(record.value, Version(record.value.lower()), record.ttl)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        return Version((await super().write(key, value, ttl=ttl, match=match)).lower())


class CountsFromOne(Broken):
    """Counts the changes of a document, and from one again after a delete: a stale writer fits the new session."""

    caught_by = "test_the_version_from_before_a_delete_does_not_fit_what_came_after"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._changes = database.changes

    def _live(self, key: str) -> Record | None:
        record = super()._live(key)
        return record and Record(record.value, Version(str(self._changes.get(key, 0))), record.ttl)

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        await super().write(key, value, ttl=ttl, match=match)
        self._changes[key] = self._changes.get(key, 0) + 1
        return Version(str(self._changes[key]))

    async def delete(self, key: str, *, match: Match = ANY) -> bool:
        existed = await super().delete(key, match=match)
        self._changes.pop(key, None)
        return existed


class WritesTheWholeFile(Broken):
    """Keeps everything in one file and writes it back whole, locked within the process: others' documents are lost."""

    caught_by = "test_writers_of_different_keys_leave_each_other_alone"

    def __init__(self, database: Database, *, client: Client | None = None) -> None:
        super().__init__(database, client=client)
        self._lock = asyncio.Lock()

    async def write(self, key: str, value: str, *, ttl: float | None = None, match: Match = ANY) -> Version:
        if self._state != "open":
            await self._ready("write", key)
        async with self._lock:
            whole = dict(self._entries)
            version = await super().write(key, value, ttl=ttl, match=match)
            whole[key] = self._entries[key]
            self._entries.clear()
            self._entries.update(whole)
        return version


# ---------------------------------------------------------------------- iteration


class PrefixIsPattern(Broken):
    """Hands the prefix to LIKE, KEYS or glob unescaped: ``t[ab]`` is never found, ``*`` finds everything."""

    caught_by = "test_a_prefix_is_literal"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key in super().read_all_keys(batch_size=batch_size):
            if fnmatch.fnmatchcase(key, prefix + "*"):
                yield key


class LeaksSiblings(Broken):
    """Compares namespaces without their end: ``app:`` finds, and clears, ``app2:`` too."""

    caught_by = "test_sibling_prefixes_are_told_apart"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        async for key in super().read_all_keys(prefix.rstrip(":"), batch_size=batch_size):
            yield key


class ReadsOnePage(Broken):
    """Reads one page of a scan and takes it for everything."""

    caught_by = "test_in_a_crowded_database_every_key_is_found"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        page = set(list(self._entries)[:PAGE])
        async for key in super().read_all_keys(prefix, batch_size=batch_size):
            if key in page:
                yield key


class ListsEverybodysValues(Broken):
    """Minds the prefix when it lists keys but not when it lists documents."""

    caught_by = "test_a_prefix_is_literal"

    async def read_all_values(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        self._validate_listing("read_all_values", prefix, batch_size)
        async for value in super().read_all_values(batch_size=batch_size):
            yield value


class SkipsByOffset(Broken):
    """Pages with an offset: every document deleted meanwhile hides another."""

    caught_by = "test_deleting_each_key_as_it_comes_skips_none"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        offset = 0
        while page := [key async for key in super().read_all_keys(prefix)][offset : offset + batch_size]:
            for key in page:
                yield key
            offset += batch_size


class RepeatsKeys(Broken):
    """Passes on what a scan returns, and a scan may return a key twice."""

    caught_by = "test_every_key_comes_once_whatever_the_batch_size"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        count = 0
        async for key in super().read_all_keys(prefix, batch_size=batch_size):
            yield key
            count += 1
            if count == PAGE:
                yield key


class ReadingCreates(Broken):
    """Creates what it does not find: half of the listed sessions never existed."""

    caught_by = "test_reading_what_is_missing_adds_nothing"

    async def read(self, key: str) -> Record | None:
        record = await super().read(key)
        if record is None and key not in self._entries:
            self._entries[key] = ("null", None)
        return record


class EndsQuietly(Broken):
    """Catches an error while iterating and ends the loop: an export of everything lacks most of it."""

    caught_by = "test_an_error_while_iterating_never_just_ends_the_loop"

    async def read_all_keys(self, prefix: str = "", *, batch_size: int = 500) -> AsyncIterator[str]:
        try:
            async for key in super().read_all_keys(prefix, batch_size=batch_size):
                yield key
        except UnavailableError:
            return


# ---------------------------------------------------------------------- batches


class KeepsTheLast(Broken):
    """Gathers a batch in a dict by key: of the operations on one key only the last happens."""

    caught_by = "test_the_writes_of_one_key_happen_in_the_order_given"

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        last = {write.key: write for write in writes}
        results = dict(zip(last, await super().write_many(list(last.values())), strict=True))
        return [results[write.key] for write in writes]


class FailsTogether(Broken):
    """Raises the conflict of one operation for the whole batch: strangers' sessions are not saved."""

    caught_by = "test_a_match_that_fails_fails_alone"

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        results = await super().write_many(writes)
        for result in results:
            if isinstance(result, ConflictError):
                raise result
        return results


class WritesHalfABatch(Broken):
    """Finds out in the middle of a batch that an operation is invalid."""

    caught_by = "test_one_wrong_operation_and_nothing_is_written"

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        results: list[WriteResult] = []
        for write in writes:
            results += await super().write_many([write])
        return results


class StopsAtARefusal(Broken):
    """Raises what one operation was refused for, when those before it are written: they look like conflicts then."""

    caught_by = "test_what_the_backend_refuses_fails_alone"

    async def write_many(self, writes: Sequence[Write]) -> list[WriteResult]:
        return list(conflicts_only(await super().write_many(writes)))


class CallsItselfAtomic(Broken):
    """Calls its batches transactions and writes one operation after the other: others see half of one."""

    caught_by = "test_an_atomic_batch_happens_as_a_whole_or_not_at_all"
    capabilities = replace(SoundStorage.capabilities, atomic_batches=True)
