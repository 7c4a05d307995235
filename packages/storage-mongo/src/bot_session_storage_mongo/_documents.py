"""JSON text ⇄ BSON values, without loss in either direction."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import bson
from bot_session.storage import Version
from bson.binary import UUID_SUBTYPE, Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.errors import BSONError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

__all__ = ["OPTIONS", "Unreadable", "encodable", "from_version", "to_bson", "to_json", "to_version"]

OPTIONS: Final = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
"""How values are decoded: so that encoding them again gives the same bytes, whatever the client's own options are."""

_dump: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")

_MAX_DEPTH: Final = 80
"""Servers take 100 levels, and a command puts some around a value."""

_MAX_BYTES: Final = 7 * 1024 * 1024
"""An array of digits grows sevenfold as BSON. As text, no document that a storage takes does."""


class Unreadable(ValueError):  # noqa: N818 - as in "unreadable: a BSON regular expression"
    """The value has no form in JSON."""


def to_bson(document: str) -> Any:
    """
    Return the BSON value of a document: native if the same data comes back from it, else its text.

    The text is BSON's type for JavaScript source, which JSON is, and which no JSON value becomes natively: so nothing
    but the value itself says how to read it, also after another program replaced it.
    """
    try:
        value = json.loads(document, parse_constant=_refuse)
        encoded = bson.encode({"v": value})
        if len(encoded) <= _MAX_BYTES and _has_place(value) and bson.decode(encoded, OPTIONS)["v"] == value:
            return value
    except (BSONError, OverflowError, RecursionError, ValueError):
        pass  # not native, then: a large integer, half a character, NUL in a name, or no JSON at all
    return bson.Code(encodable(document))


def to_json(value: Any) -> str:
    """
    Return a BSON value as a document.

    Raises:
        Unreadable: JSON has no form for it.
    """
    if isinstance(value, bson.Code) and value.scope is None:
        return str(value)
    return _dump(_plain(value))


def to_version(value: Any) -> Version:
    """Return the version of a BSON value: its encoding, since JSON would not tell a date from its text."""
    return Version(bson.encode({"v": value}, codec_options=OPTIONS).decode("latin-1"))


def from_version(version: Version) -> Any:
    """
    Return the value that a version stands for.

    Raises:
        ValueError: It is no version of ours.
    """
    try:
        return bson.decode(version.encode("latin-1"), OPTIONS)["v"]
    except (BSONError, LookupError) as error:
        raise ValueError("no version of this storage") from error


def encodable(document: str) -> str:
    """Return the document with half characters escaped as JSON has it: BSON's text is UTF-8, which has none."""
    return _HALF_CHARACTER.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _has_place(value: Any, depth: int = 1) -> bool:
    """
    Return whether every server takes the value, and `to_json` brings it back.

    MongoDB reads names with ``$`` as operators or references, and we some floats as integers.
    """
    inner: Iterable[Any]
    if isinstance(value, float):
        return value is _number(value)
    if isinstance(value, dict):
        inner = value.values()
        if any(name.startswith("$") for name in value):
            return False
    elif isinstance(value, list):
        inner = value
    else:
        return True
    return depth < _MAX_DEPTH and all(_has_place(each, depth + 1) for each in inner)


def _plain(value: Any) -> Any:
    """Return the JSON value of a BSON value, as the JavaScript driver's ``JSON.stringify`` would show it."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _foreign(value)


def _number(value: float) -> float:
    """Return an integer for what JavaScript's driver stores as double since 32 bits are too few for it: a chat's id."""
    if not math.isfinite(value):
        raise Unreadable(f"the number {value}")
    if value.is_integer() and 2**31 <= abs(value) <= 2**53:
        return int(value)
    return value


def _foreign(value: Any) -> str:
    """Return the text for what other programs store and JSON has no type for."""
    if isinstance(value, DatetimeMS):
        try:
            moment = value.as_datetime(CodecOptions(tz_aware=True))
        except (OverflowError, ValueError) as error:
            raise Unreadable(f"the date {int(value)} ms after 1970") from error
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, (bson.ObjectId, Decimal128)):
        return str(value)
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        try:
            return str(value.as_uuid())
        except ValueError as error:
            raise Unreadable(f"a UUID of {len(value)} bytes") from error
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise Unreadable(f"a BSON {type(value).__name__}")
