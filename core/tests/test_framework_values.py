"""Plain Python data as JSON, for what frameworks keep: python-telegram-bot's persistence, aiogram's FSM."""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from bot_session import DecodeError, EncodeError
from bot_session.frameworks.values import PythonCodec
from hypothesis import given, settings
from hypothesis import strategies as st

codec = PythonCodec()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.datetimes(
        timezones=st.none() | st.integers(-82_800, 82_800).map(lambda offset: timezone(timedelta(0, offset)))
    )
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
keys = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["$dict", "$", "$tuple"]), inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=8,
)


def exactly(value):
    """What tells True from 1, and a list from a tuple, in repr."""
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(exactly(item)) for item in value)
    if isinstance(value, dict):
        return dict, [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(item) for item in value]
    return type(value), repr(value)


@settings(deadline=None)  # the first example pays for what is imported
@given(data)
def test_everything_comes_back_as_it_was(value):
    back = codec.decode(codec.encode(value))

    assert exactly(value) == exactly(back)


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}'),
        ({1: "a"}, '{"$dict":[[1,"a"]]}'),
        ({"$set": 1}, '{"$dict":[["$set",1]]}'),
        ({"cart": {(1, 2)}}, '{"cart":{"$set":[{"$tuple":[1,2]}]}}'),
        (datetime(2026, 1, 2, tzinfo=UTC), '{"$datetime":"2026-01-02T00:00:00+00:00"}'),
        (timedelta(days=1), '{"$timedelta":[1,0,0]}'),
        ([date(2026, 1, 2), time(3), Decimal("1.0"), b"x", UUID(int=0)], None),
    ],
)
def test_what_json_has_stands_as_it_is(value, document):
    assert document in (None, codec.encode(value))
    assert value == codec.decode(codec.encode(value))


class Size(IntEnum):
    LARGE = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2: object()}]}, r"data\['a'\]\[1\]\[2\] is a object"),
        ({"size": Size.LARGE}, r"data\['size'\] is a .*Size"),
        ({"a": defaultdict(int)}, r"data\['a'\] is a collections.defaultdict"),
        ({"a": float("nan")}, r"data\['a'\] is nan"),
        ({"a": datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))}, r"data\['a'\] is a time in Europe/Berlin"),
        ({"a": datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1)))}, r"data\['a'\] .* microseconds"),
        ({"a": time(1, tzinfo=UTC)}, r"data\['a'\] is a time of day"),
        ({Size.LARGE: 1}, "a key of data is a .*Size"),
        ({"a": {"data": object()}}, r"data\['a'\]\['data'\] is a object"),
    ],
)
def test_what_would_not_come_back_is_refused_with_its_place(value, message):
    with pytest.raises(EncodeError, match=message):
        codec.encode(value)


def test_data_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(EncodeError, match="holds itself"):
        codec.encode(value)


@pytest.mark.parametrize("document", ['{"$what":1}', '{"$set":[[]]}', '{"$date":"x"}', '{"$dict":[[1]]}', "{"])
def test_a_document_of_somebody_elses_is_no_data(document):
    with pytest.raises(DecodeError):
        codec.decode(document)
