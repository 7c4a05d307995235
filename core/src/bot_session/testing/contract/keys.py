"""Group: any text is a key, distinct ones stay distinct, and what is no key is refused before it gets anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bot_session.errors import InvalidKeyError
from bot_session.storage import Write

from .base import ContractBase, keys_of

if TYPE_CHECKING:
    from bot_session.storage import Storage

__all__ = ["HOSTILE_KEYS", "Keys"]

HOSTILE_KEYS = [
    "",
    " ",
    ".",
    "..",
    "...",
    "a",
    "A",
    "ß",
    "ss",
    "SS",
    "aa",
    "a ",
    " a",
    "a.",
    ".a",
    "a\n",
    "a\t",
    "a\r\n",
    "a/b",
    "a//b",
    "a/",
    "/a",
    "a/../b",
    "../../etc/passwd",
    "/etc/passwd",
    "a\\b",
    "C:\\a",
    "a:b",
    "a::b",
    "a:b:",
    "%",
    "%2e%2e",
    "%00",
    "100%",
    "a_b",
    "a-b",
    "a?b",
    "a*b",
    "a[b]",
    "{a}",
    "$a",
    "a,b",
    "a(b)",
    'a"b',
    "a'b",
    "a`b",
    "';--",
    "' OR 1=1 --",
    "null",
    "None",
    "0",
    "00",
    "0.0",
    "-1001234567890",
    "-0",
    "1e3",
    "1000",
    "con",
    "CON",
    "nul.json",
    "a.json",
    "__proto__",
    "é",
    "e\u0301",
    "Å",
    "Å",
    "ﬁ",
    "fi",
    "İ",
    "i",
    "I",
    "ı",
    "日本語",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "\uffff",
    "\ufeffa",
    "a\u200bb",
    "\u202eab",
    "\x01",
    "\x7f",
    "a#b",
    "a&b=c",
    "a+b",
    "a;b",
    "a|b",
    "a<b>",
    "~",
    "@a",
    "!a",
    "^a",
]
"""Keys that some backend, file system or driver has mixed up, escaped wrongly or refused."""

NO_KEYS: list[Any] = ["a\0b", "\0", "\ud800", "a\udfff", 42, None, b"a", 1.5, ("a",)]
"""What no storage takes for a key."""


class Keys(ContractBase):
    """Any text is a key."""

    @pytest.mark.parametrize("key", HOSTILE_KEYS, ids=ascii)
    async def test_any_text_is_a_key(self, storage: Storage, other: Storage, key: str) -> None:
        document = json.dumps(key)
        await storage.write(key, document, ttl=600.0)
        record = await other.read(key)

        assert record is not None
        assert key == json.loads(record.value)
        assert await storage.has(key)
        assert await storage.touch(key, None)
        assert [key] == [key async for key in storage.read_all_keys()]
        assert [key] == [key async for key in storage.read_all_keys(key)]
        assert [key] == list(await storage.read_many([key]))
        assert await storage.delete(key)
        assert await keys_of(storage) == []

    async def test_distinct_keys_stay_distinct(self, storage: Storage) -> None:
        await storage.write_many([Write(key, json.dumps(key)) for key in HOSTILE_KEYS])
        found = {key: json.loads(record.value) for key, record in (await storage.read_many(HOSTILE_KEYS)).items()}

        assert {key: key for key in HOSTILE_KEYS} == found
        assert sorted(set(HOSTILE_KEYS)) == await keys_of(storage)

    async def test_case_is_told_apart(self, storage: Storage) -> None:
        await storage.write("Key", "1")

        assert await storage.read("key") is None
        assert not await storage.has("KEY")
        assert await storage.delete("kEY") is False
        assert await keys_of(storage) == ["Key"]
        assert await keys_of(storage, "k") == []

    async def test_composed_and_combining_characters_are_told_apart(self, storage: Storage) -> None:
        await storage.write("caf\u00e9", "1")
        await storage.write("cafe\u0301", "2")
        found = {key: record.value for key, record in (await storage.read_many(["caf\u00e9", "cafe\u0301"])).items()}

        assert found == {"caf\u00e9": "1", "cafe\u0301": "2"}

    @pytest.mark.parametrize("character", ["x", "%", "/", "é", "👩"], ids=ascii)
    async def test_long_keys_are_not_cut(self, storage: Storage, character: str) -> None:
        size = min(512, storage.capabilities.max_key_bytes or 512)
        stem = character * (size // len(character.encode()) - 1)
        keys = [stem + last for last in "abc"]
        for key in keys:
            await storage.write(key, json.dumps(key[-1]))
        found = [json.loads(record.value) for record in (await storage.read_many(keys)).values()]

        assert sorted(found) == ["a", "b", "c"]
        assert sorted(keys) == await keys_of(storage, stem)

    @pytest.mark.parametrize("key", NO_KEYS, ids=ascii)
    async def test_what_is_no_key_is_refused_by_every_method(self, storage: Storage, key: Any) -> None:
        async def iterate() -> None:
            async for _ in storage.read_all_keys(key):
                pass

        calls = {
            "read": lambda: storage.read(key),
            "write": lambda: storage.write(key, "1"),
            "delete": lambda: storage.delete(key),
            "has": lambda: storage.has(key),
            "touch": lambda: storage.touch(key, 60.0),
            "read_many": lambda: storage.read_many(["a", key]),
            "write_many": lambda: storage.write_many([Write("a", "1"), Write(key, "1")]),
            "delete_many": lambda: storage.delete_many(["a", key]),
            "read_all_keys": iterate,
        }
        for method, call in calls.items():
            with pytest.raises(InvalidKeyError):
                pytest.fail(f"{method} returned {await call()!r}")
        assert await keys_of(storage) == []
