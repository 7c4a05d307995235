"""
What is fuzzed: functions of bytes that come from anywhere, each of which holds a promise up to them.

They raise AssertionError where the promise is broken; any other exception is one too, since only those named here may
come out. ``fuzz/run.py`` searches for such bytes; what was found stays in ``fuzz/found`` and is tried in every test run.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from bot_session import (
    Codec,
    ConfigurationError,
    DecodeError,
    EncodeError,
    MemoryStorage,
    Seal,
    Storage,
    open_storage,
    register_storage,
)
from bot_session.codec import split
from bot_session.migrations import open_envelope, seal_envelope
from bot_session.redaction import redact_url
from bot_session.storage import key_problem
from bot_session_storage_file import FileStorage
from bot_session_storage_file._document import parse, render
from bot_session_storage_file._paths import MAX_KEY_BYTES, key_of, path_of, plain_path_of
from bot_session_storage_sqlite import SQLiteStorage

SECRET = "hunter2"  # noqa: S105 - none


@dataclass
class Typed:
    """A bit of everything that types bring back."""

    count: int = 0
    ratio: float = 0.0
    price: Decimal = Decimal(0)
    when: datetime | None = None
    blob: bytes = b""
    tags: set[str] = field(default_factory=set)
    by_number: dict[int, str] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    anything: Any = None


class Fuzzed(MemoryStorage):
    """A storage with an option of every type."""

    driver_query = True

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        text: str = "",
        whole: int = 0,
        number: float | None = None,
        flag: bool = False,
        choice: Literal["a", "b"] = "a",
    ) -> Fuzzed:
        types = (type(url), type(text), type(whole), type(number), type(flag), choice in {"a", "b"})
        assert types[:3] + types[4:] == (str, str, int, bool, True), types
        assert number is None or math.isfinite(number)
        return cls()


for scheme, storage in {"fuzz": Fuzzed, "file": FileStorage, "sqlite": SQLiteStorage}.items():
    register_storage(scheme, storage)  # looking among the installed packages every time would be slow
_plain, _typed = Codec[Any](), Codec(Typed)
_seals = [Seal(), Seal(compress=True), Seal(bytes(32)), Seal(bytes(32), compress=True, accept_plain=True)]


def codec(data: bytes) -> None:
    """What is decoded is encoded so that it comes back, or an error says that it cannot be."""
    document = _text(data)
    for each in (_plain, _typed):
        try:
            value = each.decode(document)
        except DecodeError:
            continue
        try:
            written = each.encode(value)
            each.verify(value, written)
        except EncodeError:
            assert each is _typed, "whatever JSON says, JSON can say again"
            continue
        assert written == each.encode(each.decode(written)), "encoding settles"
    _split(document)


def _split(document: str) -> None:
    try:
        fields, whole = split(document), _plain.decode(document)
    except DecodeError:
        return
    assert {name: _plain.decode(bytes(part).decode()) for name, part in fields.items()} == whole


def envelope(data: bytes) -> None:
    """A document comes out of its envelope as it went in, and nothing else is taken for one."""
    document = _text(data)
    opened = open_envelope(document)
    assert opened is None or opened.document in document or "\\u" in document  # half characters are spelled out
    try:
        value = _plain.decode(document)
    except DecodeError:
        return
    for version in (None, Decimal(0), Decimal("10.1"), Decimal("1E+3")):
        sealed = seal_envelope(document, version)
        opened = open_envelope(sealed)
        if opened is None:
            assert (sealed, version) == (document, None)
        else:
            assert (_plain.decode(opened.document), opened.version) == (value, version)
            assert not opened.expired


def seal(data: bytes) -> None:
    """A sealed document comes out as it went in; anything else is refused or plain."""
    text = _text(data)
    for each in _seals:
        try:
            document = each.unseal(text, "42")
        except DecodeError:
            document = text
        try:
            value = _plain.decode(document)
        except DecodeError:
            continue
        opened = each.unseal(each.seal(document, "42"), "42")
        envelope_of_it = open_envelope(opened)
        assert document == opened or (envelope_of_it and value == _plain.decode(envelope_of_it.document))


def url(data: bytes) -> None:
    """A URL makes a storage or a ConfigurationError, and no secret comes out."""
    text = _text(data)
    redact_url(text)
    for address in (f"fuzz:{text}", f"fuzz://me:{SECRET}@host/{text}", f"file:{text}", f"sqlite:{text}"):
        try:
            storage = open_storage(address)
        except ConfigurationError as error:
            assert SECRET in text or SECRET not in f"{error}{error.__cause__}"
        else:
            assert isinstance(storage, Storage)
            assert SECRET in text or SECRET not in repr(storage)


def path(data: bytes) -> None:
    """A key has one file of its own, in the folder; a file has one key, or none."""
    text = _text(data)
    if not key_problem(text, MAX_KEY_BYTES):
        place = path_of(text)
        assert text == key_of(place)
        assert re.fullmatch(r"[0-9a-z_.%A-F+/-]+", place), "a disk that folds case sees the same"
        assert place.lower() != path_of(text.swapcase()).lower() or text == text.swapcase()
        _stays_inside(place)
        plain = plain_path_of(text)
        if plain is not None:
            assert text == key_of(plain)
            _stays_inside(plain)
    key = key_of(text)
    assert key is None or text in {path_of(key), plain_path_of(key)}


def _stays_inside(place: str) -> None:
    parts = place.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert all(len(part.encode()) <= 255 for part in parts)


def file(data: bytes) -> None:
    """What a file holds is read as it was written, or refused."""
    try:
        found = parse(data)
    except ValueError:
        return
    for expires in (None, 1_700_000_000_000):
        for tabs in (False, True):
            assert (found.value, expires) == parse(render(found.value, expires, tabs=tabs))[:2]


def _text(data: bytes) -> str:
    """Any text at all, also with halves of characters."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


TARGETS = {function.__name__: function for function in (codec, envelope, seal, url, path, file)}
