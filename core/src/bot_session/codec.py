"""
Codec: session data ⇄ document.

Data is whatever JSON can carry by itself, or anything that has a type to come back by: dataclasses, `TypedDict`,
`msgspec.Struct`, attrs classes, pydantic models and what is nested in them, with `datetime`, `UUID`, `Decimal`,
``bytes``, ``set``, enums and the other types that msgspec knows.

The promise: what is read back equals what was written, or `EncodeError` is raised and nothing is written. What pydantic
models keep in private attributes is no data: it is not written.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import json
import math
import typing
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect as types

from .errors import ConfigurationError, DecodeError, EncodeError
from .fidelity import holds_sets, is_json, is_plain, look_for

if typing.TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "fill", "split", "type_of"]

T = TypeVar("T")

_LONGEST_LOOKED_AT: Final = 4_096
"""Characters. A document that short holds no integer that can be written and not read: Python has 4,300 digits at most."""

_shape = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Codec(Generic[T]):
    """
    Encodes and decodes the data of one kind of session.

    Args:
        data_type: What the data is; `Any` stands for plain dicts, lists and scalars.

    Attributes:
        is_steady: Whether data that has not changed is encoded alike each time. Sets are not.

    Raises:
        ConfigurationError: No JSON document can be turned into such a type.
    """

    def __init__(self, data_type: type[T] | Any = Any) -> None:
        self.data_type = data_type
        try:
            info = types.type_info(data_type)
            self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(data_type, dec_hook=_from_foreign)
        except (TypeError, ValueError, NameError, NotImplementedError) as error:
            raise ConfigurationError(f"session data cannot be of type {_name(data_type)}: {error}") from error
        if isinstance(info, types.CustomType) and not _is_pydantic(info.cls):
            raise ConfigurationError(
                f"{_name(data_type)} is an ordinary class, which JSON cannot bring back: make it a @dataclass, a "
                "TypedDict, a msgspec.Struct, an attrs class or a pydantic model"
            )
        self._encode = msgspec.json.Encoder(enc_hook=_to_plain).encode
        self._plain = is_plain(info)
        # A subclass with an encoding of its own is only known to bring back what it has read back.
        is_own = type(self).encode is Codec.encode and type(self).decode is Codec.decode
        self._look = look_for(info) if is_own else None
        # It sorts dicts, too: for comparing only.
        orderly = msgspec.json.Encoder(enc_hook=_to_plain, order="deterministic").encode
        self._encode_sorted = orderly if is_own and holds_sets(info) else None
        self.is_steady = self._encode_sorted is None

    def canonical(self, document: str) -> str:
        """
        Rewrite data that may come from another program as the codec writes it, with what sets hold in order.

        Raises:
            DecodeError: It is not what the type demands.
        """
        data = self.decode(document)
        if self._encode_sorted is None:
            return self.encode(data)
        try:
            return self._encode_sorted(data).decode()
        except UnicodeEncodeError:
            return self.encode(data)

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
        except RecursionError as error:
            raise EncodeError(f"data is nested too deeply, or holds itself: {error}") from error
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise EncodeError(f"{self._culprit(data)} cannot be encoded: {error}") from error

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
        # What holds half a character was spelled out, and two halves may come back as one whole. To look for one
        # character first takes a tenth of the time, and most documents do not have it.
        whole = "\\" not in document or "\\ud" not in document
        look = self._look
        if look is not None and whole and len(document) <= _LONGEST_LOOKED_AT:
            try:
                if look(data):
                    return
            except AttributeError:  # An attribute was deleted.
                pass
        try:
            back = self.decode(document)
        except DecodeError as error:
            raise EncodeError(f"the data would not be readable again: {error}") from error
        try:
            # Equality alone lets subclasses pass: an IntEnum equals its int, a defaultdict its dict.
            if back == data and (not self._plain or is_json(data, deepest=len(document))):
                return
            difference = _difference(data, back, exact=self._plain)
        except Exception as error:  # Comparing is the data's own code.
            raise EncodeError(f"the data cannot be compared with what would come back: {error!r}") from error
        if difference:
            raise EncodeError(
                f"{difference}; give the session a type (a dataclass, for instance) whose annotations say what it is"
            )

    def _decode_spelled_out(self, document: str) -> T:
        """Decode with the standard library, which takes lone surrogates; msgspec does not."""
        try:
            data = json.loads(document, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the document is broken: {error}") from error
        try:
            return msgspec.convert(data, self.data_type, dec_hook=_from_foreign, str_keys=True)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise DecodeError(f"the document is no {_name(self.data_type)}: {error}") from error

    def _culprit(self, data: Any) -> str:
        """Say which part of the data cannot be encoded: the innermost."""
        path = "data"
        while found := next(((part, place) for part, place in _parts(data, path) if not self._can_encode(part)), None):
            data, path = found
        return path

    def _can_encode(self, part: Any) -> bool:
        try:
            self._encode(part)
        except (UnicodeEncodeError, RecursionError):
            return True
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            return False
        return True


def fill(data: Any, new: Any) -> Any:
    """
    Give data the content of ``new`` in place, so that whoever holds it sees it.

    Returns:
        The data; ``new`` if it is of another type, or of one that cannot be changed.
    """
    if type(data) is not type(new):
        return new
    if isinstance(data, dict):
        data.clear()
        data.update(new)
        return data
    if isinstance(data, list):
        data[:] = new
        return data
    names = _fields(type(data))
    try:
        for name in names:
            setattr(data, name, getattr(new, name))
    except (AttributeError, TypeError, ValueError):  # It is frozen, or checks each assignment.
        return new
    return data if names else new


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
    if isinstance(initial, functools.partial):
        return type_of(initial.func)
    function = initial if inspect.isroutine(initial) else type(initial).__call__
    try:
        hints = typing.get_type_hints(getattr(function, "__func__", function), include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"what initial returns cannot be resolved ({error}): pass type=") from error
    made = hints.get("return", Any)
    awaitable = typing.get_origin(made) in (collections.abc.Awaitable, collections.abc.Coroutine)
    return typing.get_args(made)[-1] if awaitable else made


def split(document: str) -> dict[str, msgspec.Raw]:
    """
    Take a document that is an object apart, leaving the values of its fields as they are.

    Raises:
        DecodeError: It is no object, or broken.
    """
    try:
        return _shape.decode(document)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        if "\\u" not in document:
            raise DecodeError(f"the document has no fields: {error}") from error
    fields: dict[str, Any] = Codec(dict[str, Any]).decode(document)
    return {name: msgspec.Raw(_spell_out(value).encode()) for name, value in fields.items()}


def _is_pydantic(cls: type) -> bool:
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_dump")


def _to_plain(value: Any) -> Any:
    """What msgspec does not know by itself: pydantic models."""
    if _is_pydantic(type(value)):
        # Without warnings: they would quote the data, and `Codec.verify` raises for what does not fit.
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
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


def _finite(number: str) -> float:
    """Refuse what is beyond floats, as msgspec does; the standard library would make it infinite."""
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> typing.NoReturn:
    raise ValueError(f"{constant} is no number that JSON can bring back")


def _difference(mine: Any, back: Any, path: str = "data", *, exact: bool) -> str | None:
    """
    Say where two values differ; None if only classes without ``__eq__`` stood in the way.

    Args:
        mine: What is to be stored.
        back: What would come back.
        path: What to call it.
        exact: Whether values that are equal, but of different types, differ too.
    """
    if not exact and mine == back:
        return None
    if type(mine) is not type(back):
        return f"{path} is {_name(type(mine))} and would come back as {_name(type(back))}"
    if isinstance(mine, dict):
        others = [a for a, b in zip(mine, back, strict=False) if type(a) is not type(b)]
        if lost := [key for key in mine if key not in back] or others:
            return f"{path} has the key {lost[0]!r}, which would come back as another"
    parts = zip(_parts(mine, path), _parts(back, path), strict=False)
    found = (_difference(a, b, place, exact=exact) for (a, place), (b, _) in parts)
    if difference := next(filter(None, found), None):
        return difference
    if mine == back or isinstance(mine, (dict, list, tuple)) or _is_pydantic(type(mine)):
        return None
    if _fields(type(mine)) and _has_identity(mine):
        return None
    return f"{path} is a {_name(type(mine))} whose value would change"


def _has_identity(value: Any) -> bool:
    """Whether a value, or one that it holds, is of a class without ``__eq__``: equal to nothing but itself."""
    has_none: bool = getattr(type(value), "__eq__") is getattr(object, "__eq__")  # noqa: B009 - mypy compares types
    return has_none or any(_has_identity(part) for part, _ in _parts(value, ""))


def _parts(value: Any, path: str) -> list[tuple[Any, str]]:
    """What a value consists of, each part with its place; nothing for scalars and sets."""
    if isinstance(value, dict):
        return [(part, f"{path}[{key!r}]") for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(part, f"{path}[{i}]") for i, part in enumerate(value)]
    more = getattr(value, "__pydantic_extra__", None) or {}
    parts = [(getattr(value, name, None), f"{path}.{name}") for name in _fields(type(value))]
    return parts + [(part, f"{path}.{name}") for name, part in more.items()]


def _fields(cls: Any) -> list[str]:
    """The names of the fields of a dataclass, a Struct, a pydantic model or an attrs class; none for other types."""
    for names in ("__dataclass_fields__", "__struct_fields__", "model_fields"):
        if hasattr(cls, names):
            return list(getattr(cls, names))
    return [attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())]


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)
