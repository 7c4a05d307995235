"""Whose session an update touches."""

import enum

import pytest
from bot_session import (
    Origin,
    SessionKeyError,
    by_business_connection,
    by_chat,
    by_topic,
    by_user,
    by_user_in_chat,
    with_bot_id,
)
from bot_session.keys import key_of

EVERYTHING = Origin(chat_id=-100, user_id=7, thread_id=5, business_connection_id="abc", bot_id=99)


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (by_chat, "-100"),
        (by_user, "7"),
        (by_user_in_chat, "7/-100"),
        (by_topic, "-100:5"),
        (by_business_connection, "abc:-100"),
        (with_bot_id(by_chat), "99:-100"),
        (with_bot_id(by_user_in_chat), "99:7/-100"),
    ],
)
def test_what_they_make_of_an_update_that_has_everything(function, key):
    assert key == function(EVERYTHING)


@pytest.mark.parametrize(
    ("function", "origin"),
    [
        (by_chat, Origin(user_id=7)),
        (by_user, Origin(chat_id=-100)),
        (by_user_in_chat, Origin(user_id=7)),
        (by_user_in_chat, Origin(chat_id=-100)),
        (by_topic, Origin(user_id=7, thread_id=5)),
        (by_business_connection, Origin(business_connection_id="abc")),
        (with_bot_id(by_chat), Origin(user_id=7, bot_id=99)),
        (with_bot_id(by_chat), Origin(user_id=7)),
    ],
)
def test_an_update_without_what_they_need_has_no_session(function, origin):
    assert function(origin) is None


@pytest.mark.parametrize("function", [by_topic, by_business_connection])
def test_outside_a_topic_or_a_business_connection_the_chat_has_one(function):
    assert "-100" == function(Origin(chat_id=-100))


@pytest.mark.parametrize(
    ("function", "origin"),
    [
        (by_chat, Origin(chat_id=0)),
        (by_user, Origin(user_id=0)),
        (by_topic, Origin(chat_id=0)),
    ],
)
def test_zero_is_an_id_and_not_nothing(function, origin):
    assert "0" == function(origin)


def test_thread_0_is_a_topic():
    assert "-100:0" == by_topic(Origin(chat_id=-100, thread_id=0))


class TestWithBotId:
    def test_without_the_bots_id_it_raises_rather_than_mix_the_bots(self):
        with pytest.raises(SessionKeyError, match="bot"):
            with_bot_id(by_chat)(Origin(chat_id=-100))

    async def test_it_wraps_async_functions_and_those_that_return_integers(self):
        async def later(origin):
            return origin.user_id

        assert "99:7" == await key_of(with_bot_id(later), EVERYTHING)
        assert "99:7" == await key_of(with_bot_id(lambda origin: origin.user_id), EVERYTHING)

    async def test_it_refuses_what_is_no_key(self):
        with pytest.raises(SessionKeyError, match="float"):
            await key_of(with_bot_id(lambda _: 1.5), EVERYTHING)

    def test_it_is_called_like_what_it_wraps(self):
        assert "by_chat" == with_bot_id(by_chat).__name__


class TestWhatKeyFunctionsReturn:
    @pytest.mark.parametrize("key", ["42", "", "a b/c:d", "Ünïcödé🍕"])
    async def test_text_is_taken_as_it_is_the_empty_one_too(self, key):
        assert key == await key_of(lambda _: key, EVERYTHING)

    @pytest.mark.parametrize("number", [0, 7, -1001234567890, 2**70])
    async def test_integers_become_text(self, number):
        assert str(number) == await key_of(lambda _: number, EVERYTHING)

    async def test_enums_of_text_and_integers_become_what_they_are_worth(self):
        class Name(enum.StrEnum):
            ADA = "ada"

        class Number(enum.IntEnum):
            SEVEN = 7

        keys = [await key_of(lambda _, key=key: key, EVERYTHING) for key in (Name.ADA, Number.SEVEN)]

        assert ["ada", "7"] == keys
        assert [str, str] == [type(key) for key in keys]

    async def test_none_is_no_session_and_never_a_key_called_so(self):
        """Unlike grammY, where null is the key "null", which everybody shares."""
        assert await key_of(lambda _: None, EVERYTHING) is None

    @pytest.mark.parametrize(
        "bad", [1.0, True, False, b"42", ("42",), {}, object(), 1j], ids=lambda bad: type(bad).__name__
    )
    async def test_anything_else_is_refused_by_its_type(self, bad):
        with pytest.raises(SessionKeyError, match=type(bad).__name__):
            await key_of(lambda _: bad, EVERYTHING)

    async def test_an_async_function_is_awaited(self):
        async def later(origin):
            return origin.chat_id

        assert "-100" == await key_of(later, EVERYTHING)

    async def test_its_own_error_reaches_the_caller(self):
        with pytest.raises(ZeroDivisionError):
            await key_of(lambda _: 1 / 0, EVERYTHING)
