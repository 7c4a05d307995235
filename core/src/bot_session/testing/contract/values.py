"""Group: documents come back as they were."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from bot_session.errors import ConflictError, StorageError, UnavailableError
from bot_session.storage import Write

from .base import ContractBase

if TYPE_CHECKING:
    from bot_session.storage import Storage, WriteResult

__all__ = ["DOCUMENTS", "Values"]

DOCUMENTS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "minus zero": "-0.0",
    "one": "1",
    "one as float": "1.0",
    "small float": "5e-324",
    "long float": "0.1234567890123456",
    "exponent": "1e300",
    "int of 53 bits": "9007199254740993",
    "int of 64 bits": "-9223372036854775808",
    "int beyond 64 bits": "123456789012345678901234567890",
    "empty text": '""',
    "text": '"It\'s 100% «fine»; -- {$ne: 1} \\\\ /"',
    "text like a number": '"007"',
    "text like a date": '"2024-02-29T23:59:60Z"',
    "text like JSON": '"{\\"a\\":1}"',
    "escapes": '"\\b\\f\\n\\r\\t\\"\\\\\\/"',
    "NUL escaped": '"a\\u0000b"',
    "lone surrogate escaped": '"\\ud800"',
    "emoji": '"👩‍👩‍👧‍👦🇳🇱"',
    "emoji escaped": '"\\ud83d\\ude00"',
    "combining": '"e\u0301 \u00e9"',
    "line separators": '"\u2028\u2029\u0085"',
    "empty list": "[]",
    "empty object": "{}",
    "list": '[null,true,1,1.0,"1",[],{}]',
    "object": '{"a":1,"b":{"c":[1,2,{"d":null}]}}',
    "empty name": '{"":1}',
    "names with dots and dollars": '{"a.b":1,"$set":{"$x":2},"_id":3,"key":4,"value":5}',
    "names out of order": '{"z":1,"a":2,"10":3,"9":4}',
    "name with NUL": '{"a\\u0000b":1}',
    "grammY envelope": '{"__d":{"n":1},"v":2}',
    "grammY expiry": '{"__d":{"n":1},"e":1}',
    "extended JSON": '{"$oid":"5f43b2a0c0ffee0000000000"}',
    "spaces": ' { "a" : [ 1 , 2 ] }\n',
    "tabs": '{\n\t"a": 1\n}',
    "nested": "[" * 60 + "]" * 60,
    "one megabyte": json.dumps("x" * 1_000_000),
    "one megabyte of emoji": json.dumps("🍕" * 250_000, ensure_ascii=False),
}
"""Documents that some backend, driver or layout has changed, by name."""


class Values(ContractBase):
    """Documents come back as they were."""

    @pytest.mark.parametrize("name", DOCUMENTS)
    async def test_a_document_comes_back_as_it_was(self, storage: Storage, other: Storage, name: str) -> None:
        document = DOCUMENTS[name]
        if name in self.refuses:
            with pytest.raises(StorageError):
                await storage.write("k", document)

            assert await storage.read("k") is None
            return
        await storage.write("k", document)
        record = await other.read("k")

        assert record is not None
        assert self.comparable(document) == self.comparable(record.value)
        assert await other.has("k") is True
        assert await other.touch("k", None) is True
        assert await storage.delete("k") is True
        assert await other.has("k") is False

    @pytest.mark.parametrize("document", ['"\ud800"', "", "{", '"a\0b"'], ids=ascii)
    async def test_what_is_no_document_is_refused_or_comes_back_as_it_was(
        self, storage: Storage, document: str
    ) -> None:
        # A storage keeps documents and need not check them. But it changes none, and a refusal is no outage.
        for batch in (False, True):
            await storage.write("k", "1")
            result: WriteResult | ValueError
            try:
                if batch:
                    (result,) = await storage.write_many([Write("k", document)])
                else:
                    result = await storage.write("k", document)
            except (StorageError, ValueError) as error:
                result = error
            record = await storage.read("k")

            assert not isinstance(result, UnavailableError)
            assert record is not None
            expected = "1" if isinstance(result, Exception) else document
            assert expected == record.value or self.comparable(expected) == self.comparable(record.value)

    async def test_documents_do_not_show_in_errors_or_reprs(self, storage: Storage) -> None:
        secret = json.dumps("hunter2")
        version = await storage.write("k", secret)
        await storage.write("k", json.dumps("hunter2, too"))
        record = await storage.read("k")
        (conflict,) = await storage.write_many([Write("k", secret, match=version)])
        with pytest.raises(ConflictError) as caught:
            await storage.delete("k", match=version)
        shown = f"{record!r} {storage!r} {storage} {conflict!r} {conflict} {caught.value!r} {caught.value}"

        assert "hunter2" not in shown

    async def test_batches_and_entries_return_the_same_text_as_read(self, storage: Storage) -> None:
        names = sorted(DOCUMENTS.keys() - self.refuses)
        await storage.write_many([Write(name, DOCUMENTS[name]) for name in names])
        singles = {name: record.value for name in names if (record := await storage.read(name)) is not None}
        many = {key: record.value for key, record in (await storage.read_many(names)).items()}
        entries = {key: record.value async for key, record in storage.read_all_entries()}

        assert {name: self.comparable(DOCUMENTS[name]) for name in names} == {
            name: self.comparable(text) for name, text in singles.items()
        }
        assert singles == many
        assert singles == entries

    async def test_writing_replaces_the_whole_document(self, storage: Storage) -> None:
        await storage.write("k", '{"a":1,"b":[1,2,3]}')
        await storage.write("k", '{"b":[]}')
        record = await storage.read("k")

        assert record is not None
        assert json.loads(record.value) == {"b": []}

    async def test_nothing_is_stored_at_first(self, storage: Storage) -> None:
        assert await storage.read("k") is None
        assert not await storage.has("k")
        assert await storage.delete("k") is False
        assert await storage.touch("k", 60.0) is False

    async def test_delete_removes_and_says_whether_there_was_anything(self, storage: Storage) -> None:
        await storage.write("k", "1")

        assert await storage.has("k")
        assert await storage.delete("k") is True
        assert not await storage.has("k")
        assert await storage.read("k") is None
        assert await storage.delete("k") is False

    async def test_a_document_is_text_and_nothing_else(self, storage: Storage) -> None:
        for wrong in (b"1", 1, {"a": 1}):
            with pytest.raises(TypeError):
                await storage.write("k", wrong)  # type: ignore[arg-type]
        assert await storage.read("k") is None

    async def test_a_reader_never_sees_half_a_document(self, storage: Storage, other: Storage) -> None:
        documents = [json.dumps([i, "x" * 50_000, i]) for i in range(8)]
        await storage.write("k", documents[0])

        async def write() -> None:
            for document in documents * 2:
                await storage.write("k", document)

        seen: list[int] = []
        writing = asyncio.create_task(write())
        while not writing.done():
            record = await other.read("k")
            assert record is not None
            first, _, last = json.loads(record.value)
            assert first == last
            seen.append(first)
            # Reader and writer must not walk in step, or one never sees what the other does in between.
            for _ in range(len(seen) % 3):
                await asyncio.sleep(0)
        await writing
        turns = sum(later < earlier for earlier, later in pairwise(seen))

        assert turns <= 1, f"an older document came back after a newer one: {seen}"
