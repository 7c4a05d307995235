"""
Codec: session data ⇄ document.

Data is whatever JSON can carry by itself, or anything that has a type to come back by: dataclasses, `TypedDict`,
`msgspec.Struct`, attrs classes, pydantic models and what is nested in them, with `datetime`, `UUID`, `Decimal`,
``bytes``, ``set``, enums and the other types that msgspec knows.

The promise: what is read back equals what was written, or `EncodeError` is raised and nothing is written.
"""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect as types

from .errors import ConfigurationError, DecodeError, EncodeError

if typing.TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "type_of"]

T = TypeVar("T")

_PLAIN_SCALARS = frozenset({str, int, float, bool, type(None)})
"""With ``dict`` and ``list``, all that JSON brings back without being told a type."""


class Codec(Generic[T]):
    """
    Encodes and decodes the data of one kind of session.

    Args:
        data_type: What the data is; `Any` stands for plain dicts, lists and scalars.

    Raises:
        ConfigurationError: No JSON document can be turned into such a type.
    """

    def __init__(self, data_type: type[T] | Any = Any) -> None:
        self.data_type = data_type
        try:
            info = types.type_info(data_type)
            self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(data_type, dec_hook=_from_foreign)
        except (TypeError, NameError) as error:
            raise ConfigurationError(f"session data cannot be of type {_name(data_type)}: {error}") from error
        if isinstance(info, types.CustomType) and not _is_pydantic(info.cls):
            raise ConfigurationError(
                f"{_name(data_type)} is an ordinary class, which JSON cannot bring back: make it a @dataclass, a "
                "TypedDict, a msgspec.Struct, an attrs class or a pydantic model"
            )
        self._encode = msgspec.json.Encoder(enc_hook=_to_plain).encode
        self._plain = _is_plain(info)

    def encode(self, data: T) -> str:
        """
        Turn data into a document: compact JSON, as JavaScript's ``JSON.stringify`` writes it.

        Fast and unchecked: `verify` before the document is stored.

        Raises:
            EncodeError: The data holds something for which there is no JSON.
        """
        try:
            return self._encode(data).decode()
        except UnicodeEncodeError:
            # Half a character (a lone surrogate) has no UTF-8, but JSON can spell it out, as JavaScript does.
            return _spell_out(data)
        except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
            raise EncodeError(f"the data cannot be encoded: {error}") from error

    def decode(self, document: str) -> T:
        """
        Turn a document into data.

        Raises:
            DecodeError: It is not JSON, or not what the type demands.
        """
        try:
            return self._decoder.decode(document)
        except UnicodeEncodeError as error:
            raise DecodeError("the document holds half a character (a lone surrogate)") from error
        except msgspec.ValidationError as error:
            raise DecodeError(f"the document is no {_name(self.data_type)}: {error}") from error
        except msgspec.DecodeError as error:
            if "\\u" not in document:
                raise DecodeError(f"the document is broken: {error}") from error
            return self._decode_spelled_out(document)
        except RecursionError as error:
            raise DecodeError("the document is nested too deeply") from error

    def verify(self, data: T, document: str) -> None:
        """
        Make sure that ``document`` will bring back ``data``, before it is stored.

        This is what catches a `datetime` in a plain dict (it would come back as text), a tuple (as a list), an integer
        key (as text), NaN (as nothing), a value that does not fit its field's annotation.

        Raises:
            EncodeError: It would not; the message says where.
        """
        try:
            back = self.decode(document)
        except DecodeError as error:
            raise EncodeError(f"the data would not be readable again: {error}") from error
        same = back == data
        if same and not self._plain:
            return
        difference = None if same else _difference(data, back)
        # Equality alone lets subclasses pass: an IntEnum equals its int, a defaultdict its dict.
        difference = difference or (_foreign_part(data) if self._plain else None)
        if difference is not None:
            raise EncodeError(
                f"{difference}; give the session a type (a dataclass, for instance) whose annotations say what it is"
            )

    def _decode_spelled_out(self, document: str) -> T:
        """Decode with the standard library, which takes lone surrogates; msgspec does not."""
        try:
            return msgspec.convert(json.loads(document), self.data_type, dec_hook=_from_foreign, str_keys=True)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the document is broken: {error}") from error


def type_of(initial: Callable[..., Any] | None) -> Any:
    """
    Say what type of data ``initial`` makes: a class makes itself, a function what its annotation says.

    Returns:
        The type; `Any` where nothing tells.

    Raises:
        ConfigurationError: The annotation names something that cannot be found.
    """
    if initial is None:
        return Any
    if inspect.isclass(initial) or typing.get_origin(initial) is not None:
        return initial
    function = initial if inspect.isroutine(initial) else type(initial).__call__
    try:
        return typing.get_type_hints(getattr(function, "__func__", function), include_extras=True).get("return", Any)
    except NameError as error:
        raise ConfigurationError(f"what initial returns cannot be resolved ({error}): pass type=") from error


def _is_plain(info: types.Type) -> bool:
    """Whether a type says nothing beyond JSON: any value, or lists and dicts of such."""
    match info:
        case types.AnyType():
            return True
        case types.DictType(key_type=key, value_type=value):
            return isinstance(key, (types.AnyType, types.StrType)) and _is_plain(value)
        case types.ListType(item_type=item):
            return _is_plain(item)
    return False


def _is_pydantic(cls: type) -> bool:
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_dump")


def _to_plain(value: Any) -> Any:
    """What msgspec does not know by itself: pydantic models."""
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    raise NotImplementedError(f"{_name(type(value))} has no JSON form")


def _from_foreign(cls: type, value: Any) -> Any:
    """The way back. Through JSON again, because pydantic's strict mode is milder with JSON than with Python objects."""
    if not _is_pydantic(cls):
        raise NotImplementedError(f"{_name(cls)} has no JSON form")
    from pydantic import ValidationError  # noqa: PLC0415 - only here if the user has it

    try:
        return cls.model_validate_json(msgspec.json.encode(value))  # type: ignore[attr-defined]
    except ValidationError as error:
        # Pydantic's own text quotes the input, which is somebody's data.
        problems = (f"{'.'.join(map(str, p['loc'])) or 'it'}: {p['msg']}" for p in error.errors(include_input=False))
        raise ValueError("; ".join(problems)) from None


def _spell_out(data: Any) -> str:
    try:
        plain = msgspec.to_builtins(data, str_keys=True, enc_hook=_to_plain)
        return json.dumps(plain, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
        raise EncodeError(f"the data cannot be encoded: {error}") from error


def _difference(mine: Any, back: Any, path: str = "data") -> str | None:
    """Say where two values differ; None if only classes without ``__eq__`` stood in the way."""
    if type(mine) is not type(back):
        return f"{path} is {_name(type(mine))} and would come back as {_name(type(back))}"
    if isinstance(mine, dict):
        if lost := [key for key in mine if key not in back]:
            return f"{path} has the key {lost[0]!r}, which would come back as another"
        parts = [(mine[key], back[key], f"{path}[{key!r}]") for key in mine]
    elif isinstance(mine, (list, tuple)):
        parts = [(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(mine, back, strict=False))]
    elif names := _fields(type(mine)):
        parts = [(getattr(mine, name, None), getattr(back, name, None), f"{path}.{name}") for name in names]
    else:
        return None if mine == back else f"{path} is a {_name(type(mine))} whose value would change"
    return next((found for part in parts if (found := _difference(*part))), None)


def _fields(cls: Any) -> list[str]:
    """The names of the fields of a dataclass, a Struct, a pydantic model or an attrs class; none for other types."""
    for names in ("__dataclass_fields__", "__struct_fields__", "model_fields"):
        if hasattr(cls, names):
            return list(getattr(cls, names))
    return [attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())]


def _foreign_part(data: Any) -> str | None:
    """Say what in plain data is not exactly one of JSON's own types."""
    parts = [data]
    while parts:
        part = parts.pop()
        kind = type(part)
        if kind is dict:
            parts += part.values()
        elif kind is list:
            parts += part
        elif kind not in _PLAIN_SCALARS:
            return f"the data holds a {_name(kind)}, which would come back as something else"
    return None


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)
