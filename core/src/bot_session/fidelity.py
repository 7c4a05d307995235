"""
Fidelity: what certainly comes back from JSON as it was, told by looking at it.

Before data is stored it must be known that it will come back. Reading the document back tells it of all data, and costs
more than the first reading did. Of data that consists of JSON's own types, and of some others, the classes of the values
tell it too: in half the time, if the code is written out for the type, as `dataclasses` writes an ``__eq__``.

>>> from dataclasses import dataclass
>>> @dataclass
... class Pizza:
...     count: int = 0
...     toppings: list[str] | None = None
>>> look = look_for(types.type_info(Pizza))
>>> look(Pizza(1, ["ham"])), look(Pizza(1, ("ham",))), look(Pizza(True))
(True, False, False)
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import keyword
import typing
from datetime import UTC, date, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import inspect as types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Look", "holds_sets", "is_json", "is_plain", "look_for"]

Look: TypeAlias = "Callable[[Any], bool]"
"""Says of data whether it certainly comes back as it was. False is no verdict: then reading it back has to tell."""

_SCALARS: Final = frozenset({str, int, bool, type(None)})
"""Of such a value its class tells everything. Not so of a float: JSON has no NaN and no infinities."""

_STR: Final = frozenset({str})

_LOOKS: Final = (
    (types.AnyType(), "is_json({0})"),
    (types.StrType(), "type({0}) is str"),
    (types.IntType(), "type({0}) is int"),
    (types.BoolType(), "type({0}) is bool"),
    (types.NoneType(), "{0} is None"),
    (types.FloatType(), "type({0}) is float and isfinite({0})"),
    (types.BytesType(), "type({0}) is bytes"),
    (types.UUIDType(), "type({0}) is UUID"),
    (types.DateType(), "type({0}) is date"),
    (types.DateTimeType(), "type({0}) is datetime and ({0}.tzinfo is None or {0}.tzinfo is UTC)"),
    (types.ListType(types.AnyType()), "type({0}) is list and is_json({0})"),
    (types.DictType(types.AnyType(), types.AnyType()), "type({0}) is dict and is_json({0})"),
    (types.DictType(types.StrType(), types.AnyType()), "type({0}) is dict and is_json({0})"),
)
"""How to look at a value of these types, if no constraint goes with them. Other time zones come back as offsets."""


def is_plain(info: types.Type) -> bool:
    """Whether a type says nothing beyond JSON: any value, or lists and dicts of such."""
    match info:
        case types.AnyType():
            return True
        case types.DictType(key_type=key, value_type=value):
            return isinstance(key, (types.AnyType, types.StrType)) and is_plain(value)
        case types.ListType(item_type=item):
            return is_plain(item)
    return False


def holds_sets(info: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a type has a set in it somewhere: equal sets may come in another order each time that they are made."""
    if isinstance(info, (types.SetType, types.FrozenSetType)):
        return True
    cls = getattr(info, "cls", None)
    if cls in seen:
        return False
    parts = [getattr(info, name) for name in ("type", "item_type", "key_type", "value_type") if hasattr(info, name)]
    parts += [*getattr(info, "item_types", ()), *getattr(info, "types", ())]
    parts += [field.type for field in getattr(info, "fields", ())]
    return any(holds_sets(part, seen if cls is None else seen | {cls}) for part in parts)


def is_json(data: Any, deepest: int = 100) -> bool:
    """
    Whether data is what JSON brings back without being told a type: no subclasses, no NaN.

    Args:
        data: The data.
        deepest: How many containers within containers there may be. By default, far fewer than any decoder takes.
    """
    level = [data]
    for _ in range(deepest):
        inner: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is dict:
                if not _STR.issuperset(map(type, part)):
                    return False
                inner += part.values()
            elif kind is list:
                inner += part
            elif kind not in _SCALARS and (kind is not float or not isfinite(part)):
                return False
        if not inner:
            return True
        level = inner
    return False


_USED: Final = {
    **{kind.__name__: kind for kind in (type, str, int, bool, float, bytes, list, dict, map)},
    "is_json": is_json,
    "isfinite": isfinite,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "UTC": UTC,
    "text": _STR,
}
"""What the looks are made of, besides the classes of the data."""


def look_for(info: types.Type) -> Look | None:
    """
    Make the look for a type.

    It raises `AttributeError` if an object has lost an attribute.

    Returns:
        The look; None if it takes reading back to tell of each value: because of constraints, of types like `Decimal` and
        `set`, of code that runs when an object is made, or of a class that holds itself.
    """
    try:
        return _Writer().look(info)
    except (_NoLookError, RecursionError):
        return None


_CLASSES: Final = (types.TypedDictType, types.DataclassType, types.StructType)


class _NoLookError(Exception):
    """It takes reading back to tell."""


class _Writer:
    """Writes functions, line by line, and keeps what they use by name. `_NoLookError` ends it."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = dict(_USED)
        self._looks: dict[Any, str | None] = {}  # For each class the name of its look; None while that is written.

    def look(self, info: types.Type) -> Look:
        if isinstance(info, _CLASSES):
            look: Look = self._names[self._look_of_class(info)]
            return look
        return self._function(self._lines(info, "data"))

    def _function(self, lines: Iterable[str]) -> Look:
        body = [*lines, "return True"]
        # As `dataclasses` does: what a function finds in one around it, it finds sooner than what is global.
        function = ["def look(data):", *_indented(body)]
        maker = [f"def make({', '.join(self._names)}):", *_indented([*function, "return look"])]
        made: dict[str, Any] = {}
        exec("\n".join(maker), made)  # noqa: S102 - the texts are all here
        look: Look = made["make"](**self._names)
        return look

    def _name(self, kind: str, meaning: object = None) -> str:
        name = f"{kind}_{len(self._names)}"
        self._names[name] = meaning
        return name

    def _lines(self, info: types.Type, value: str) -> Iterator[str]:
        """Write statements that return False if a value, which an expression names, is not as it must be."""
        item = _item_of(info)
        if item is None or _simple(info) is not None:
            yield _unless(self._condition(info, value))
        elif isinstance(info, types.ListType):
            yield _unless(f"type({value}) is list")
            name = self._name("item")
            yield f"for {name} in {value}:"
            yield from _indented([_unless(self._condition(item, name))])
        else:
            yield _unless(f"type({value}) is dict")
            key, name = self._name("key"), self._name("item")
            yield f"for {key}, {name} in {value}.items():"
            yield from _indented([_unless(f"type({key}) is str and ({self._condition(item, name)})")])

    def _condition(self, info: types.Type, value: str) -> str:
        """Write the look at a value as an expression."""
        simple = _simple(info)
        if simple is not None:
            return simple.format(value)
        match info:
            case types.UnionType(types=choices) if types.AnyType() not in choices:
                # What a union chooses from differs in JSON too: msgspec allows no others.
                return " or ".join(self._condition(choice, value) for choice in choices)
            case types.EnumType(cls=cls) if _comes_back(cls):
                return f"type({value}) is {self._name('class', cls)}"
        if _item_of(info) is not None:
            return f"{self._name('look', self.look(info))}({value})"
        if isinstance(info, _CLASSES):
            return f"{self._look_of_class(info)}({value})"
        raise _NoLookError

    def _look_of_class(self, info: types.TypedDictType | types.DataclassType | types.StructType) -> str:
        """Write the look of a class, once, and return its name."""
        if info.cls not in self._looks:
            self._looks[info.cls] = None
            if isinstance(info, types.TypedDictType):
                lines = self._lines_for_typed_dict(info.fields)
            else:
                lines = self._lines_for_object(typing.get_origin(info.cls) or info.cls, info.fields)
            self._looks[info.cls] = self._name("look", self._function(lines))
        name = self._looks[info.cls]
        if name is None:
            raise _NoLookError  # It holds itself.
        return name

    def _lines_for_typed_dict(self, fields: tuple[types.Field, ...]) -> Iterator[str]:
        required = self._name("required", {field.name for field in fields if field.required})
        allowed = self._name("allowed", {field.name for field in fields})
        yield _unless(
            f"type(data) is dict and text.issuperset(map(type, data)) and {required} <= data.keys() <= {allowed}"
        )
        for field in fields:
            yield f"if {field.name!r} in data:"
            yield from _indented(self._lines_for_part(field.type, f"data[{field.name!r}]"))

    def _lines_for_object(self, cls: type, fields: tuple[types.Field, ...]) -> Iterator[str]:
        if not _is_transparent(cls, fields):
            raise _NoLookError
        yield _unless(f"type(data) is {self._name('class', cls)}")
        for field in fields:
            yield from self._lines_for_part(field.type, f"data.{field.name}")

    def _lines_for_part(self, info: types.Type, part: str) -> Iterator[str]:
        name = self._name("part")
        yield f"{name} = {part}"
        yield from self._lines(info, name)


def _item_of(info: types.Type) -> types.Type | None:
    """The type of what is in a list, or in a dict under texts, if nothing more is demanded of it."""
    match info:
        case types.ListType(item_type=item) if info == types.ListType(item):
            return item
        case types.DictType(value_type=item) if info == types.DictType(types.StrType(), item):
            return item
    return None


def _simple(info: types.Type) -> str | None:
    return next((look for simple, look in _LOOKS if info == simple), None)


def _unless(condition: str) -> str:
    return f"if not ({condition}): return False"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _is_transparent(cls: type, fields: tuple[types.Field, ...]) -> bool:
    """Whether an object is its fields and no more: nothing else happens when it is encoded, or made again."""
    if issubclass(cls, msgspec.Struct):
        whole = not cls.__struct_config__.omit_defaults
    else:
        whole = dataclasses.is_dataclass(cls) and len(dataclasses.fields(cls)) == len(fields)
        # No list with fields, and no class of attrs that has inherited some.
        whole = whole and cls.__new__ is object.__new__ and not hasattr(cls, "__attrs_attrs__")
    # Python takes some letters beyond ASCII for others.
    names = [field.name for field in fields]
    named = all(name.isascii() and name.isidentifier() and not keyword.iskeyword(name) for name in names)
    attributes = [inspect.getattr_static(cls, name, None) for name in names]
    computed = any(inspect.isdatadescriptor(found) and not inspect.ismemberdescriptor(found) for found in attributes)
    return whole and named and not computed and not hasattr(cls, "__post_init__")


def _comes_back(cls: type[enum.Enum]) -> bool:
    """Whether each member of an enum comes back: of one that is a text or a number as well, its value may be another."""
    if issubclass(cls, enum.Flag):
        return False  # Several together are a member too.
    try:
        return all(msgspec.json.decode(msgspec.json.encode(member), type=cls) is member for member in cls)
    except msgspec.MsgspecError:
        return False
