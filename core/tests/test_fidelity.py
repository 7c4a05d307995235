"""What is seen to come back does come back; whatever is not certain is left to reading back."""

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from bot_session import Codec, EncodeError
from bot_session.fidelity import look_for
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as types

T = TypeVar("T")


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Text(str):
    __slots__ = ()


@dataclass
class Line:
    text: str = ""
    price: float = 0.0


class Place(msgspec.Struct, rename="camel", tag=True):
    house_number: int = 0
    street: str | None = None


class Seen(TypedDict):
    count: int
    last: NotRequired[datetime]


@dataclass
class Order:
    count: int = 0
    name: str | None = None
    paid: bool = False
    nothing: None = None
    ratio: float | int | None = None
    when: datetime | None = None
    day: date = date(2020, 2, 29)
    uid: UUID = field(default_factory=lambda: UUID(int=1))
    blob: bytes = b""
    size: Size = Size.SMALL
    lines: list[Line] = field(default_factory=list)
    tags: list[str] | None = None
    numbers: dict[str, int | None] = field(default_factory=dict)
    place: Place = field(default_factory=Place)
    seen: Seen = field(default_factory=lambda: {"count": 0})
    grid: list[list[int]] = field(default_factory=list)
    by_name: dict[str, list[Line]] = field(default_factory=dict)
    anything: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    either: list[int] | dict[str, str] | int = 0


def seen(data):
    look = look_for(types.type_info(type(data)))
    return look is not None and look(data)


GOOD = [
    Order(),
    Order(2**70, "Luigi 🍕", True, ratio=1.5, when=datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC), size=Size.LARGE),
    Order(ratio=-3, when=datetime(1, 1, 1), lines=[Line("a", -0.0), Line("b", 1e300)], tags=["a", ""]),  # noqa: DTZ001
    Order(numbers={"": 1, "a": None}, place=Place(3, "x"), seen={"count": 1, "last": datetime(2020, 1, 1, tzinfo=UTC)}),
    Order(grid=[[], [1, 2]], by_name={"a": [Line("a")]}, anything=[{"a": [1, 1.5, None, True, "x"]}], notes={"a": [1]}),
    Order(either=[1]),
    Order(either={"a": "b"}),
    Place(1, "a"),
]


@pytest.mark.parametrize("data", GOOD, ids=range(len(GOOD)))
def test_what_consists_of_what_json_brings_back_is_seen(data):
    codec = Codec(type(data))

    assert seen(data)
    assert data == codec.decode(codec.encode(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": True},
        {"count": 1.0},
        {"count": Level.LOW},
        {"name": Text("a")},
        {"paid": 1},
        {"nothing": 0},
        {"ratio": math.nan},
        {"ratio": math.inf},
        {"ratio": Decimal(1)},
        {"when": datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        {"when": datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Rome"))},
        {"when": date(2020, 1, 1)},
        {"day": datetime(2020, 1, 1, tzinfo=UTC)},
        {"uid": str(UUID(int=1))},
        {"blob": bytearray()},
        {"size": "s"},
        {"lines": (Line(),)},
        {"lines": [Line(price=1)]},
        {"lines": [None]},
        {"tags": ["a", 1]},
        {"tags": {"a"}},
        {"numbers": {1: 1}},
        {"numbers": {Text("a"): 1}},
        {"numbers": OrderedDict(a=1)},
        {"numbers": {"a": "1"}},
        {"place": None},
        {"place": Place("3")},
        {"seen": {}},
        {"seen": {"count": "1"}},
        {"seen": {"count": 1, "more": 1}},
        {"seen": {"count": 1, "last": None}},
        {"grid": [[1], ["1"]]},
        {"grid": [[1], None]},
        {"by_name": {"a": [Line(text=None)]}},
        {"anything": (1,)},
        {"anything": [{"a": [{1: 2}]}]},
        {"anything": [math.nan]},
        {"anything": Line()},
        {"notes": {"a": {"b": {1}}}},
        {"notes": []},
        {"either": ["1"]},
        {"either": {"a": 1}},
        {"either": "1"},
    ],
    ids=str,
)
def test_whatever_might_come_back_as_something_else_is_not(changes):
    assert not seen(Order(**changes))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (dict[str, dict[str, Any]], {"a": {"b": 1}}, {"a": "b"}),
        (dict[str, list], {"a": [1]}, {"a": 1}),
        (list[dict], [{"a": 1}], [1]),
        (list[list[list]], [[[1]]], [[1]]),
        (dict, {"a": [1]}, []),
        (list, [{}], {}),
        (Seen, {"count": 1}, {Text("count"): 1}),
    ],
    ids=str,
)
def test_what_is_in_containers_is_looked_at_as_well(kind, good, bad):
    look = look_for(types.type_info(kind))

    assert look(good)
    assert not look(bad)


class Page(msgspec.Struct, Generic[T]):
    items: list[T] = []


@dataclass
class Sheet(Generic[T]):
    page: Page[T] = field(default_factory=Page)


def test_generic_classes_are_seen():
    look = look_for(types.type_info(Sheet[int]))

    assert look(Sheet(Page([1])))
    assert not look(Sheet(Page(["1"])))
    assert Sheet(Page([1])) == Codec(Sheet[int]).decode(Codec(Sheet[int]).encode(Sheet(Page([1]))))


def test_types_may_be_nested_deeply():
    kind, data = int, 1
    for _ in range(150):
        kind, data = list[kind], [data]

    assert look_for(types.type_info(kind))(data)


def test_a_class_that_is_there_many_times_is_looked_into_once():
    kind = int
    for number in range(30):  # 2 ** 30 ways lead to the innermost
        kind = make_dataclass(f"Level{number}", [("left", kind), ("right", kind)])

    assert look_for(types.type_info(kind)) is not None


def test_the_code_of_a_time_zone_is_not_run():
    class Strange(tzinfo):
        def utcoffset(self, moment):
            return timedelta(0)

        def __eq__(self, other):
            raise ZeroDivisionError

        __hash__ = None

    assert not seen(Order(when=datetime(2020, 1, 1, tzinfo=Strange())))


def test_an_object_of_a_subclass_is_not():
    class Special(Line):
        pass

    assert not seen(Order(lines=[Special()]))


def test_what_is_nested_deeply_is_not():
    data = Order()
    for _ in range(99):
        data.anything = [data.anything]

    assert seen(data)
    data.anything = [data.anything]
    assert not seen(data)


@dataclass
class Shouting:
    name: str = ""

    def __post_init__(self):
        self.name = self.name.upper()


class Hidden:
    """A field behind which there is code."""

    def __get__(self, owner, kind):
        return "default" if owner is None else owner.__dict__["hidden"]

    def __set__(self, owner, value):
        owner.__dict__["hidden"] = value.upper()


@dataclass
class Computed:
    name: str = Hidden()


@dataclass
class Node:
    after: "Node | None" = None


class Sparse(msgspec.Struct, omit_defaults=True):
    tags: list[str] = []


class Late(msgspec.Struct):
    name: str = ""

    def __post_init__(self):
        self.name = self.name.upper()


@attrs.define
class Shop:
    name: str = ""


class Model(pydantic.BaseModel):
    name: str = ""


class Point(NamedTuple):
    x: int = 0


Strange = msgspec.defstruct("Strange", [("class", int, 0)])
Ligature = msgspec.defstruct("Ligature", [("\ufb01", float), ("fi", float)])  # Python reads the first as the second.


@dataclass
class Items(list):
    count: int = 0


@attrs.define(slots=False)
class Inherited(Line):
    more: int = 0


class Renamed(str, enum.Enum):  # noqa: UP042 - not what a StrEnum is
    """What is written of a member is "Apple", and what is read is "a"."""

    def __new__(cls, code, label):
        member = str.__new__(cls, label)
        member._value_ = code
        return member

    APPLE = ("a", "Apple")


class Swapped(int, enum.Enum):
    def __new__(cls, code, rank):
        member = int.__new__(cls, rank)
        member._value_ = code
        return member

    LOW = (1, 2)
    HIGH = (2, 1)


@pytest.mark.parametrize(
    "kind",
    [
        *(Shouting, Computed, Node, Sparse, Late, Shop, Model, Point, Strange, Ligature, Items, Inherited),
        *(Renamed, Swapped, Any | Line, list[Any | Size]),
        *(Decimal, timedelta, set[str], tuple[int, str], frozenset[int], Rights, Literal["a"]),
        *(dict[int, str], dict[UUID, int], dict[Literal["a"], int], list[Decimal], list[int] | None | Decimal),
        *(
            Annotated[kind, msgspec.Meta(**limits)]
            for kind, limits in [
                (int, {"ge": 0}),
                (float, {"lt": 1}),
                (str, {"max_length": 3}),
                (bytes, {"max_length": 3}),
                (datetime, {"tz": True}),
                (list[int], {"max_length": 3}),
                (dict[str, int], {"max_length": 3}),
                (dict, {"min_length": 1}),
                (list[Any], {"min_length": 1}),
            ]
        ),
        list[Annotated[int, msgspec.Meta(ge=0)]],
        dict[Annotated[str, msgspec.Meta(max_length=3)], int],
    ],
    ids=str,
)
def test_types_with_a_will_of_their_own_have_no_look(kind):
    assert look_for(types.type_info(kind)) is None
    assert look_for(types.type_info(make_dataclass("Holder", [("held", kind)]))) is None


def test_an_object_that_lost_an_attribute_is_read_back():
    line = Line()
    del line.text  # There is still the default of the class.
    Codec(Line).verify(line, Codec(Line).encode(line))

    bare = make_dataclass("Bare", [("text", str)])("a")
    del bare.text
    with pytest.raises(EncodeError, match="text"):
        Codec(type(bare)).verify(bare, Codec(type(bare)).encode(bare))


def test_two_halves_that_would_come_back_as_one_character_are_refused():
    for codec, data in ((Codec(), {"a": "\ud83c\udf55"}), (Codec(Line), Line("\ud83c\udf55"))):
        with pytest.raises(EncodeError):
            codec.verify(data, codec.encode(data))


def test_an_integer_that_could_be_written_and_not_read_is_refused():
    for codec, data in ((Codec(), [-(10**4299)]), (Codec(Order), Order(-(10**4299)))):
        with pytest.raises(EncodeError):
            codec.verify(data, codec.encode(data))


def test_what_a_codec_of_ones_own_does_is_read_back():
    class Shouting(Codec):
        def decode(self, document):
            return super().decode(document.upper())

    codec = Shouting(Line)
    with pytest.raises(EncodeError):
        codec.verify(Line("a"), codec.encode(Line("a")))


def test_long_documents_are_verified_too():
    line = Line("x" * 5_000)
    Codec(Line).verify(line, Codec(Line).encode(line))
    line.price = "1"
    with pytest.raises(EncodeError, match="price"):
        Codec(Line).verify(line, Codec(Line).encode(line))


text = st.text()  # No half characters: those are spelled out, and then no look is taken.
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
lines = st.builds(Line, text, st.floats(allow_nan=False, allow_infinity=False))
moments = st.datetimes(timezones=st.none() | st.just(UTC)).map(
    lambda moment: moment.replace(fold=0)
)  # JSON has no fold
good = {
    "count": st.integers(),
    "name": st.none() | text,
    "paid": st.booleans(),
    "ratio": st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    "when": st.none() | moments,
    "day": st.dates(),
    "uid": st.uuids(),
    "blob": st.binary(),
    "size": st.sampled_from(Size),
    "lines": st.lists(lines, max_size=3),
    "tags": st.none() | st.lists(text, max_size=3),
    "numbers": st.dictionaries(text, st.none() | st.integers(), max_size=3),
    "place": st.builds(Place, st.integers(), st.none() | text),
    "seen": st.fixed_dictionaries({"count": st.integers()}, optional={"last": moments}),
    "grid": st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    "by_name": st.dictionaries(text, st.lists(lines, max_size=2), max_size=2),
    "anything": plain,
    "notes": st.dictionaries(text, plain, max_size=3),
    "either": st.integers() | st.lists(st.integers(), max_size=2) | st.dictionaries(text, text, max_size=2),
}
strange = (
    st.one_of(*good.values())
    | st.tuples(plain)
    | st.sets(text, max_size=1)
    | st.sampled_from([math.nan, -math.inf, "s", Level.LOW, Decimal(1), OrderedDict(a=1), {1: "a"}])
    | st.datetimes(timezones=st.timezones())
)


@given(st.fixed_dictionaries(good))
def test_whatever_is_made_of_it_is_seen_and_comes_back(fields):
    order = Order(**fields)
    codec = Codec(Order)

    assert seen(order)
    assert repr(order) == repr(codec.decode(codec.encode(order)))


@given(st.fixed_dictionaries(good), st.sampled_from(sorted(good)), strange)
def test_with_something_strange_in_it_what_is_seen_comes_back_all_the_same(fields, name, value):
    order = Order(**fields | {name: value})
    if seen(order):
        codec = Codec(Order)

        assert repr(order) == repr(codec.decode(codec.encode(order)))
