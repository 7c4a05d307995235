"""What is read back equals what was written, or `EncodeError` is raised."""

import enum
import functools
import math
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from bot_session import Codec, ConfigurationError, DecodeError, EncodeError, MemoryStorage, Sessions
from bot_session.codec import type_of
from hypothesis import given
from hypothesis import strategies as st

NAIVE = datetime(2020, 1, 2)  # noqa: DTZ001 - must come back without a timezone


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


@dataclass
class Typed:
    when: datetime | None = None
    day: date = date(2020, 2, 29)
    at: time = time(23, 59, 59, 999_999)
    span: timedelta = timedelta(days=-1, microseconds=1)
    uid: UUID | None = None
    price: Decimal = Decimal("1.10")
    blob: bytes = b"\x00\xff"
    tags: set[str] = field(default_factory=set)
    frozen: frozenset[int] = frozenset()
    pair: tuple[int, str] = (1, "a")
    by_number: dict[int, str] = field(default_factory=dict)
    size: Size = Size.SMALL
    level: Level = Level.LOW
    ratio: float = 1.0
    anything: Any = None


class Options(TypedDict, total=False):
    count: int
    when: datetime


class Order(msgspec.Struct):
    count: int = 0
    when: datetime | None = None


@attrs.define
class Shop:
    name: str = ""
    opened: date = date(2020, 1, 1)


class Point(NamedTuple):
    x: int
    label: str = ""


class Topping(pydantic.BaseModel):
    name: str = ""


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, populate_by_name=True)

    toppings: list[Topping] = []
    when: datetime | None = None
    tags: set[str] = set()
    uid: UUID | None = None
    price: Decimal = Decimal(0)
    ratio: float | None = None
    chat_id: int = pydantic.Field(0, alias="chatId")


class Free(pydantic.BaseModel, extra="allow"):
    count: int = 0
    _seen: list[int] = pydantic.PrivateAttr(default_factory=list)


@dataclass
class Mixed:
    order: Order = field(default_factory=Order)
    shop: Shop = field(default_factory=Shop)
    point: Point | None = None
    model: Strict | None = None
    models: dict[str, Topping] = field(default_factory=dict)


@dataclass(eq=False)
class Incomparable:
    ratio: float = 0.0
    parts: list[Any] = field(default_factory=list)


def saved(codec, data):
    """What a session does with data: encode, make sure, decode."""
    document = codec.encode(data)
    codec.verify(data, document)
    return codec.decode(document)


def equal(mine, back):
    return mine == back and type(mine) is type(back)


class TestTypedData:
    @pytest.mark.parametrize(
        "data",
        [
            Typed(when=datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
            Typed(when=NAIVE, tags={"a", "b"}, by_number={-1: "a"}, size=Size.LARGE),
            Typed(when=datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
            Typed(frozen=frozenset({1, 2}), price=Decimal("1E+30"), anything={"a": [1, None]}),
            Typed(ratio=3),
            Order(3, datetime(2020, 1, 2, tzinfo=UTC)),
            Shop("Luigi"),
            Point(3, "x"),
            Topping(name="ham"),
            Strict(toppings=[Topping(name="ham")], when=datetime(2020, 1, 2, tzinfo=UTC), tags={"a"}, uid=UUID(int=1)),
            Strict(chatId=-1001234567890, price=Decimal("1.10")),
            Mixed(Order(1), Shop("Luigi"), Point(2), Strict(chatId=5), {"a": Topping(name="ham")}),
        ],
        ids=lambda data: type(data).__name__,
    )
    def test_it_comes_back_as_it_was(self, data):
        assert equal(data, saved(Codec(type(data)), data))

    def test_a_typed_dict_comes_back_as_it_was(self):
        options = {"count": 1, "when": NAIVE}

        assert equal(options, saved(Codec(Options), options))
        assert equal({}, saved(Codec(Options), {}))

    def test_an_extra_key_of_a_typed_dict_is_refused(self):
        with pytest.raises(EncodeError, match="'cuont'"):
            saved(Codec(Options), {"cuont": 1})

    def test_generic_containers_may_be_typed_too(self):
        assert equal({7: {UUID(int=1)}}, saved(Codec(dict[int, set[UUID]]), {7: {UUID(int=1)}}))

    def test_the_aliases_of_pydantic_are_what_is_stored(self):
        assert '"chatId":5' in Codec(Strict).encode(Strict(chat_id=5))

    def test_data_that_cannot_be_compared_is_refused(self):
        with pytest.raises(EncodeError, match="compared"):
            saved(Codec(Typed), Typed(price=Decimal("sNaN")))

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
    def test_what_no_json_number_can_be_is_refused(self, wrong):
        for data in (Typed(ratio=wrong), Typed(anything=wrong), Strict(ratio=wrong), Incomparable(parts=[wrong])):
            with pytest.raises(EncodeError):
                saved(Codec(type(data)), data)

    @pytest.mark.parametrize(
        ("data", "place"),
        [
            (Typed(pair=(1, 2)), "pair"),
            (Typed(ratio="many"), "ratio"),
            (Typed(size="s"), "size"),
            (Typed(anything=(1,)), "anything"),
            (Typed(ratio=3, anything=[{"a": {1}}]), r"anything\[0\]\['a'\]"),
            (Mixed(model=Topping()), "model"),
            (Incomparable(1, [(2,)]), r"parts\[0\]"),
        ],
    )
    def test_what_does_not_fit_its_annotation_is_refused_naming_the_place(self, data, place):
        with pytest.raises(EncodeError, match=place):
            saved(Codec(type(data)), data)

    def test_a_pydantic_model_that_was_made_wrong_is_refused_without_a_warning(self):
        model = Strict()
        model.chat_id = "secret"
        with pytest.raises(EncodeError, match="chatId") as caught:
            saved(Codec(Strict), model)

        assert "secret" not in str(caught.value)

    def test_the_extra_fields_of_a_pydantic_model_come_back_or_are_refused(self):
        back = saved(Codec(Free), Free(note="a", more=[1]))
        assert Free(note="a", more=[1]) == back

        with pytest.raises(EncodeError, match=r"data\.when is date"):
            saved(Codec(Free), Free(when=date(2026, 1, 1)))

    def test_so_does_what_only_a_comparison_of_the_classs_own_tells(self):
        @dataclass
        class Counted:
            numbers: set[int] = field(default_factory=set)

            __hash__ = None

            def __eq__(self, other):
                return vars(self) == vars(other)

        data = Counted()
        data.more = 1
        with pytest.raises(EncodeError, match=r"data is a .*Counted whose value would change"):
            saved(Codec(Counted), data)

    def test_private_attributes_of_pydantic_models_are_no_data(self):
        model = Free(count=1)
        model._seen.append(1)

        assert Free(count=1) == saved(Codec(Free), model)

    def test_a_class_without_eq_is_compared_field_by_field(self):
        back = saved(Codec(Incomparable), Incomparable(3, [1, "a"]))

        assert (3.0, [1, "a"]) == (back.ratio, back.parts)

    def test_fields_that_are_left_out_have_their_defaults(self):
        assert Order(0, None) == Codec(Order).decode("{}")


class TestPlainData:
    @pytest.mark.parametrize(
        "data",
        [None, True, 0, -1, 1.5, -0.0, 5e-324, "", "Ünïcödé 🍕", [], {}, [1, [None, {"a": {"": []}}]], 2**53, 10**40],
        ids=str,
    )
    def test_what_json_has_comes_back_as_it_was(self, data):
        assert equal(data, saved(Codec(), data))

    @pytest.mark.parametrize(
        "stranger",
        [
            NAIVE,
            date(2020, 1, 1),
            timedelta(1),
            UUID(int=1),
            Decimal(1),
            b"bytes",
            {1, 2},
            frozenset(),
            (1, 2),
            {1: "integer key"},
            {Text("key"): 1},
            math.nan,
            math.inf,
            -math.inf,
            Level.LOW,
            Size.SMALL,
            defaultdict(list),
            OrderedDict(a=1),
            Text("subclass"),
            object(),
            Typed(),
            Order(),
            Topping(),
            Point(1),
            1j,
            print,
        ],
        ids=lambda stranger: f"{type(stranger).__name__}",
    )
    def test_what_json_has_not_is_refused_naming_the_place(self, stranger):
        with pytest.raises(EncodeError, match=r"^data\['a'\]\[1\]"):
            saved(Codec(), {"a": [1, stranger], "b": 2})

    @pytest.mark.parametrize("plain", [dict, list, dict[str, Any], list[dict[str, Any]]])
    def test_containers_of_anything_are_plain_too(self, plain):
        holding = {"a": Level.LOW} if plain in (dict, dict[str, Any]) else [{"a": Level.LOW}]
        with pytest.raises(EncodeError, match="Level"):
            saved(Codec(plain), holding)

    def test_the_documents_are_compact_and_readable_as_javascript_writes_them(self):
        assert '{"count":1,"text":"ü🍕/\\"","n":null}' == Codec().encode({"count": 1, "text": 'ü🍕/"', "n": None})

    def test_data_that_is_nested_too_deeply_is_refused(self):
        for depth in (*range(900, 1010, 3), 100_000):
            data = functools.reduce(lambda inner, _: [inner], range(depth), [])
            try:
                document = Codec().encode(data)
                Codec().verify(data, document)
            except EncodeError as error:
                assert "deep" in str(error)
        with pytest.raises(EncodeError, match="deep"):
            Codec().encode(data)

    def test_tuples_that_are_nested_deeply_are_refused(self):
        data = functools.reduce(lambda inner, _: (inner,), range(700), ())
        with pytest.raises(EncodeError):
            saved(Codec(), data)

    def test_data_that_holds_itself_is_refused(self):
        data = {"a": []}
        data["a"].append(data)
        with pytest.raises(EncodeError, match="holds itself"):
            saved(Codec(), data)


class TestHalfCharacters:
    """A lone surrogate has no UTF-8; JavaScript spells it out, and so does the codec."""

    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "🍕\ud83d", "\\ud800"])
    def test_they_round_trip(self, text):
        document = Codec().encode({"a": text})

        assert document.isascii() or "\\ud800" == text
        assert {"a": text} == saved(Codec(), {"a": text})

    def test_they_round_trip_in_keys(self):
        assert {"\ud800": 1} == saved(Codec(), {"\ud800": 1})

    def test_they_round_trip_in_typed_data(self):
        data = Typed(anything="\ud800", when=datetime(2020, 1, 1, tzinfo=UTC), tags={"\udfff"}, by_number={1: "a"})

        assert data == saved(Codec(Typed), data)

    def test_javascripts_are_read(self):
        assert {"a": "\ud800", "b": "🍕"} == Codec().decode(r'{"a":"\ud800","b":"\ud83c\udf55"}')

    @pytest.mark.parametrize("document", ['{"count":"\\ud800"}', '["\\ud800"]'])
    def test_where_they_do_not_fit_is_an_error_of_ours(self, document):
        with pytest.raises(DecodeError, match="Order"):
            Codec(Order).decode(document)

    @pytest.mark.parametrize("data", [{"a": ["\ud800", math.nan]}, {"a": "\ud800", "b": object()}, {"\ud800": (1,)}])
    def test_what_json_has_not_is_refused_beside_them(self, data):
        with pytest.raises(EncodeError):
            saved(Codec(), data)


class TestBrokenDocuments:
    @pytest.mark.parametrize(
        "document",
        [
            "",
            " ",
            "{",
            '{"a":1',
            "[1,]",
            "{'a':1}",
            "undefined",
            "NaN",
            "[Infinity]",
            '["\\u0041",NaN]',
            '["\\ud800",-Infinity]',
            '"\\ud8',
            '"\\x"',
            "1 2",
            "\ud800",
            '"\ud800"',
            "[" * 100_000,
            "\ufeff1",
        ],
        ids=lambda document: document[:20].encode("ascii", "backslashreplace").decode(),
    )
    def test_they_raise_a_decode_error(self, document):
        with pytest.raises(DecodeError):
            Codec().decode(document)

    @pytest.mark.parametrize("document", ["[]", "1", "null", '{"count":"many"}', '{"count":1.5}', '{"when":"today"}'])
    def test_another_shape_than_the_types_raises_one_that_names_the_type(self, document):
        with pytest.raises(DecodeError, match="Order"):
            Codec(Order).decode(document)

    @pytest.mark.parametrize(
        ("document", "place"),
        [
            ('{"toppings":[{"name":["secret"]}]}', r"toppings\.0\.name"),
            ('{"chatId":"secret"}', "chatId"),
            ('{"price":{"secret":"secret"}}', "price"),
            ('"secret"', "Strict"),
        ],
    )
    def test_errors_of_pydantic_name_the_place_and_not_the_data(self, document, place):
        with pytest.raises(DecodeError, match=place) as caught:
            Codec(Strict).decode(document)

        error = caught.value
        while error is not None:
            assert "secret" not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class TestTypes:
    def test_a_class_makes_itself(self):
        assert Typed is type_of(Typed)
        assert dict[str, int] == type_of(dict[str, int])

    def test_a_function_says_what_it_returns(self):
        def sync() -> Order: ...

        async def later() -> Order: ...

        def awaitable() -> Awaitable[Order]: ...

        assert [Order] * 3 == [type_of(function) for function in (sync, later, awaitable)]

    def test_a_method_does_too(self):
        class Maker:
            def make(self) -> Order: ...

            @classmethod
            def make_too(cls) -> Order: ...

        assert [Order] * 2 == [type_of(Maker().make), type_of(Maker.make_too)]

    def test_a_callable_object_does_too(self):
        class Maker:
            def __call__(self) -> Order: ...

        assert Order is type_of(Maker())

    def test_a_partial_is_what_it_calls(self):
        def make(count: int) -> Order: ...

        assert [Order, Order] == [type_of(functools.partial(make, 3)), type_of(functools.partial(Order, count=3))]

    @pytest.mark.parametrize("silent", [None, lambda: [1], functools.partial(lambda n: n, 1)])
    def test_what_says_nothing_may_be_anything(self, silent):
        assert Any is type_of(silent)

    def test_an_annotation_that_cannot_be_found_says_what_to_pass(self):
        def make() -> "Nowhere": ...  # noqa: F821

        with pytest.raises(ConfigurationError, match="type="):
            type_of(make)

    def test_the_data_of_a_partial_is_saved_as_its_type(self):
        sessions = Sessions(MemoryStorage(), initial=functools.partial(Order, count=3))

        assert Order is sessions.documents.codec.data_type

    @pytest.mark.parametrize(
        "wrong",
        [
            *(object, defaultdict, type("Plain", (), {}), int | Order | Shop),
            *(enum.Enum("Half", {"A": "\ud800"}), enum.Enum("Huge", {"A": 2**64})),
        ],
    )
    def test_a_type_that_json_cannot_bring_back_is_refused_at_once(self, wrong):
        with pytest.raises(ConfigurationError):
            Codec(wrong)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
nearly_json = st.recursive(
    json_like | st.binary() | st.datetimes() | st.decimals() | st.sampled_from([*Level, *Size, Text("a")]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.sets(st.integers(), max_size=2)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=8,
)
typed = st.builds(
    Typed,
    when=st.none() | st.datetimes(timezones=st.just(UTC) | st.none()),
    day=st.dates(),
    at=st.times(),
    span=st.timedeltas(),
    uid=st.uuids(),
    price=st.decimals(),
    blob=st.binary(),
    tags=st.sets(st.text(), max_size=3),
    by_number=st.dictionaries(st.integers(), st.text(), max_size=3),
    ratio=st.floats() | st.integers(),
    anything=nearly_json,
)


class TestWhateverTheData:
    @given(json_like)
    def test_plain_data_comes_back_equal_or_is_refused(self, data):
        check(Codec(), data, exact=True)

    @given(nearly_json)
    def test_strangers_in_plain_data_are_refused(self, data):
        check(Codec(), data, exact=True)

    @given(typed)
    def test_typed_data_comes_back_equal_or_is_refused(self, data):
        check(Codec(Typed), data, exact=False)

    @given(st.text() | st.text('[]{}":,\\ud80eE+-.0123 nulltrfas', max_size=20))
    def test_any_document_is_decoded_or_refused(self, document):
        for codec in (Codec(), Codec(Order), Codec(Topping)):
            try:
                codec.decode(document)
            except DecodeError:
                continue


def check(codec, data, *, exact):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            back = saved(codec, data)
        except EncodeError:
            return
    assert back == data
    if exact:
        assert repr(back) == repr(data)
