"""
JSON for the plain Python data that bots keep with their framework: dicts with any keys, tuples, sets, dates.

What JSON has by itself stands as it is. The rest becomes an object of one field whose name begins with ``$``:
``{1: "a"}`` is ``{"$dict":[[1,"a"]]}``, as is a dict with such a name among its keys, so that everything comes back as
it was. Whatever is not listed here is refused.
"""

from __future__ import annotations

import base64
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from bot_session.codec import Codec
from bot_session.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PythonCodec"]

_SCALARS: Final = frozenset({str, int, bool, type(None)})


class PythonCodec(Codec[Any]):
    """Encodes and decodes plain Python data, untyped; ``PythonCodec(dict)`` refuses documents that are no object."""

    def encode(self, data: Any) -> str:
        """
        Turn data into a document.

        Raises:
            EncodeError: It holds something that would not come back as it is; the message says where.
        """
        try:
            return super().encode(_to_json(data))
        except RecursionError as error:
            raise EncodeError(f"data is nested too deeply, or holds itself: {error}") from error

    def decode(self, document: str) -> Any:
        """
        Turn a document into data.

        Raises:
            DecodeError: It is none of this codec's.
        """
        try:
            return _from_json(super().decode(document))
        except (ValueError, TypeError, ArithmeticError, KeyError, RecursionError) as error:
            raise DecodeError(f"the document is broken: {error!r}") from error

    def verify(self, data: Any, document: str) -> None:
        """Do nothing: `encode` has refused whatever would not come back."""


def _to_json(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return _dict_to_json(value)
    if kind is list:
        return _items_to_json(value)
    if kind is float and math.isfinite(value):
        return value
    if kind in _TAGGED:
        tag, to_json = _TAGGED[kind]
        return {tag: to_json(value)}
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise EncodeError(f"data is {value!r}" if kind is float else f"data is a {name}, which JSON cannot bring back")


def _dict_to_json(value: dict[Any, Any]) -> dict[str, Any]:
    encoded = {}
    for key, item in value.items():
        try:
            encoded[key] = _to_json(item)
        except EncodeError as error:
            raise _inside(error, key) from None
    if all(type(key) is str and not key.startswith("$") for key in value):
        return encoded
    return {"$dict": [[_key_to_json(key), item] for key, item in encoded.items()]}


def _key_to_json(key: Any) -> Any:
    try:
        return _to_json(key)
    except EncodeError as error:
        raise EncodeError(f"a key of {error.args[0]}") from None


def _items_to_json(value: Any) -> list[Any]:
    encoded = []
    for index, item in enumerate(value):
        try:
            encoded.append(_to_json(item))
        except EncodeError as error:
            raise _inside(error, index) from None
    return encoded


def _inside(error: EncodeError, key: Any) -> EncodeError:
    """Put a place before the place that an error names."""
    return EncodeError(error.args[0].replace("data", f"data[{key!r}]", 1))


def _datetime_to_json(value: datetime) -> Any:
    if value.tzinfo is not None and type(value.tzinfo) is not timezone:
        raise EncodeError(f"data is a time in {value.tzinfo}, of which only the offset would come back: use UTC")
    offset = value.utcoffset()
    if offset is not None and offset.microseconds:  # datetime.fromisoformat reads less than a second as none
        raise EncodeError(f"data is a time in {value.tzinfo}, whose offset would come back without its microseconds")
    return _folded(value)


def _time_to_json(value: time) -> Any:
    if value.tzinfo is not None:
        raise EncodeError("data is a time of day with a time zone, which would not come back")
    return _folded(value)


def _folded(value: datetime | time) -> Any:
    """Write a time as text; one of an hour that is repeated when summer ends with a mark that it is the second one."""
    return [value.isoformat(), value.fold] if value.fold else value.isoformat()


def _unfolded(kind: Any, content: Any) -> Any:
    if type(content) is str:
        return kind.fromisoformat(content)
    text, fold = content
    return kind.fromisoformat(text).replace(fold=fold)


def _from_json(value: Any) -> Any:
    if type(value) is list:
        return [_from_json(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        [(tag, content)] = value.items()
        if tag.startswith("$"):
            return _REVIVED[tag](content)
    return {key: _from_json(item) for key, item in value.items()}


_TAGGED: Final[dict[type, tuple[str, Callable[[Any], Any]]]] = {
    tuple: ("$tuple", _items_to_json),
    # In one order, so that the same set is the same text.
    set: ("$set", lambda value: _items_to_json(sorted(value, key=repr))),
    frozenset: ("$frozenset", lambda value: _items_to_json(sorted(value, key=repr))),
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode()),
    datetime: ("$datetime", _datetime_to_json),
    date: ("$date", date.isoformat),
    time: ("$time", _time_to_json),
    timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
}

_REVIVED: Final[dict[str, Callable[[Any], Any]]] = {
    "$dict": lambda pairs: {_from_json(key): _from_json(item) for key, item in pairs},
    "$tuple": lambda items: tuple(map(_from_json, items)),
    "$set": lambda items: set(map(_from_json, items)),
    "$frozenset": lambda items: frozenset(map(_from_json, items)),
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$datetime": lambda content: _unfolded(datetime, content),
    "$date": date.fromisoformat,
    "$time": lambda content: _unfolded(time, content),
    "$timedelta": lambda parts: timedelta(*parts),
    "$decimal": Decimal,
    "$uuid": UUID,
}
