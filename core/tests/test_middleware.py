"""The framework-neutral middleware: grammY's semantics of (ctx, next)."""

import asyncio
from types import SimpleNamespace

import pytest
from bot_session import (
    ConfigurationError,
    MultiSessions,
    SessionClosedError,
    SessionKeyError,
    Sessions,
    UnavailableError,
    by_user,
)
from bot_session.middleware import lazy_session, session

READ, WRITE, DELETE = ("read", "42"), ("write", "42"), ("delete", "42")


@pytest.fixture
def sessions(storage):
    return Sessions(storage, initial=dict)


@pytest.fixture
def ctx():
    return SimpleNamespace(chat_id=42, user_id=7)


async def nothing():
    pass


class TestOrder:
    async def test_the_session_is_read_before_next_and_written_after_it(self, storage, sessions, ctx):
        async def handler():
            storage.calls.append("handler")
            ctx.session.data["count"] = 1

        await session(sessions)(ctx, handler)

        assert [READ, "handler", WRITE] == storage.calls
        assert '{"count":1}' == await storage.stored("42")

    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_the_key_is_asked_for_before_next_and_once(self, storage, sessions, ctx, make):
        def key(given):
            assert given is ctx
            order.append("key")
            return "42"

        async def handler():
            order.append("next")
            await ctx.session.get()

        order = []
        await make(sessions, key=key)(ctx, handler)

        assert ["key", "next"] == order
        assert [READ] == storage.calls

    async def test_what_next_returns_is_returned(self, sessions, ctx):
        async def handler():
            return "answer"

        assert "answer" == await session(sessions)(ctx, handler)

    async def test_next_runs_once(self, sessions, ctx):
        runs = []

        async def handler():
            runs.append(1)

        await session(sessions)(ctx, handler)

        assert [1] == runs

    async def test_updates_of_one_session_take_turns(self, sessions):
        async def update():
            ctx = SimpleNamespace(chat_id=42)

            async def handler():
                count = ctx.session.data.get("count", 0)
                await asyncio.sleep(0)
                ctx.session.data["count"] = count + 1

            await remember(ctx, handler)

        remember = session(sessions)
        await asyncio.gather(*(update() for _ in range(20)))

        assert {"count": 20} == await sessions.read("42")

    async def test_after_it_the_session_is_closed(self, sessions, ctx):
        await session(sessions)(ctx, nothing)

        with pytest.raises(SessionClosedError):
            ctx.session.data["late"] = True


class TestFailing:
    async def test_when_next_raises_nothing_is_written_and_the_error_is_the_same(self, storage, sessions, ctx):
        error = ZeroDivisionError()

        async def handler():
            ctx.session.data["count"] = 1
            raise error

        with pytest.raises(ZeroDivisionError) as caught:
            await session(sessions)(ctx, handler)

        assert error is caught.value
        assert [READ] == storage.calls

    async def test_what_was_assigned_before_is_not_written_either(self, storage, sessions, ctx):
        async def handler():
            ctx.session = {"count": 1}
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await session(sessions)(ctx, handler)

        assert [READ] == storage.calls

    async def test_assigning_without_a_key_does_not_hide_the_error_of_next(self, sessions, ctx):
        async def handler():
            ctx.session = {"count": 1}
            raise ZeroDivisionError

        ctx.chat_id = None
        with pytest.raises(ZeroDivisionError):
            await session(sessions)(ctx, handler)

    async def test_control_flow_is_no_failure(self, storage, sessions, ctx):
        async def handler():
            ctx.session = {"count": 1}
            raise StopAsyncIteration

        with pytest.raises(StopAsyncIteration):
            await session(sessions, passthrough=(StopAsyncIteration,))(ctx, handler)

        assert '{"count":1}' == await storage.stored("42")

    async def test_a_storage_that_is_down_keeps_next_from_running(self, storage, sessions, ctx):
        storage.down = True
        with pytest.raises(UnavailableError):
            await session(sessions)(ctx, lambda: pytest.fail("next ran"))

    async def test_a_handler_that_swallows_the_error_of_another_keeps_what_that_one_did(self, storage, sessions, ctx):
        async def outer():
            with pytest.raises(ZeroDivisionError):
                ctx.session.data["count"] = 1
                raise ZeroDivisionError

        await session(sessions)(ctx, outer)

        assert '{"count":1}' == await storage.stored("42")


class TestAssigningTheProperty:
    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_it_replaces_the_data(self, storage, sessions, ctx, make):
        async def handler():
            ctx.session = {"count": 7}

        await storage.store("42", '{"count":1}')
        await make(sessions)(ctx, handler)

        assert '{"count":7}' == await storage.stored("42")

    async def test_a_lazy_one_is_not_read_for_that(self, storage, sessions, ctx):
        async def handler():
            ctx.session = {"count": 7}

        await lazy_session(sessions)(ctx, handler)

        assert [WRITE] == storage.calls

    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_none_deletes(self, storage, sessions, ctx, make):
        async def handler():
            ctx.session = None

        await storage.store("42", '{"count":1}')
        await make(sessions)(ctx, handler)

        assert DELETE == storage.calls[-1]
        assert await storage.stored("42") is None

    @pytest.mark.parametrize("value", [0, "", False, []])
    async def test_falsy_values_are_data(self, storage, ctx, value):
        async def handler():
            ctx.session = value

        await session(Sessions(storage))(ctx, handler)

        assert value == await Sessions(storage).read("42")

    async def test_a_lazy_one_may_be_assigned_an_awaitable_of_what_was_there(self, storage, sessions, ctx):
        async def handler():
            ctx.session = increased(ctx.session)

        async def increased(before):
            return {"count": (await before.get())["count"] + 1}

        await storage.store("42", '{"count":1}')
        async with asyncio.timeout(5):
            await lazy_session(sessions)(ctx, handler)

        assert '{"count":2}' == await storage.stored("42")

    async def test_deleting_the_property_is_no_assignment(self, storage, sessions, ctx):
        async def handler():
            del ctx.session

        await storage.store("42", '{"count":1}')
        await session(sessions)(ctx, handler)

        assert [READ] == storage.calls


class TestWithoutAKey:
    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_next_runs_and_nothing_is_asked_of_the_storage(self, storage, sessions, ctx, make):
        async def handler():
            return "answer"

        ctx.chat_id = None

        assert "answer" == await make(sessions)(ctx, handler)
        assert [] == storage.calls

    async def test_touching_it_raises(self, sessions, ctx):
        async def handler():
            return ctx.session.data

        ctx.chat_id = None
        with pytest.raises(SessionKeyError, match="by_chat"):
            await session(sessions)(ctx, handler)

    async def test_assigning_it_raises(self, sessions, ctx):
        async def handler():
            ctx.session = {"count": 1}

        ctx.chat_id = None
        with pytest.raises(SessionKeyError, match="by_chat"):
            await session(sessions)(ctx, handler)

    async def test_what_is_no_key_raises_before_next(self, storage, sessions, ctx):
        with pytest.raises(SessionKeyError):
            await session(sessions, key=lambda _: 1.5)(ctx, lambda: pytest.fail("next ran"))

        assert [] == storage.calls


class TestLazy:
    async def test_untouched_it_asks_nothing_of_the_storage(self, storage, sessions, ctx):
        await lazy_session(sessions)(ctx, nothing)

        assert [] == storage.calls

    async def test_touched_it_is_read_once_and_saved(self, storage, sessions, ctx):
        async def handler():
            (await ctx.session.get())["count"] = 1
            (await ctx.session.get())["count"] += 1

        await lazy_session(sessions)(ctx, handler)

        assert [READ, WRITE] == storage.calls
        assert '{"count":2}' == await storage.stored("42")

    async def test_copying_the_context_does_not_touch_it(self, storage, sessions, ctx):
        """Unlike GramIO, where copying the context's properties reads the session at every update."""

        async def handler():
            SimpleNamespace(**vars(ctx))
            repr(ctx)

        await lazy_session(sessions)(ctx, handler)

        assert [] == storage.calls


class TestSideBySide:
    async def test_several_have_names_of_their_own(self, storage, sessions, ctx):
        profiles = Sessions(storage, initial=dict, prefix="profile:", key=by_user)

        async def handler():
            ctx.session.data["n"] = 1
            ctx.profile.data["n"] = 2

        async def inner():
            await session(profiles, name="profile")(ctx, handler)

        await session(sessions)(ctx, inner)

        assert '{"n":1}' == await storage.stored("42")
        assert '{"n":2}' == await storage.stored("profile:7")

    async def test_a_name_that_is_taken_is_refused(self, storage, sessions, ctx):
        async def again():
            await session(sessions)(ctx, lambda: pytest.fail("next ran"))

        with pytest.raises(ConfigurationError, match="name="):
            await session(sessions)(ctx, again)
        with pytest.raises(ConfigurationError, match="'chat_id'"):
            await session(sessions, name="chat_id")(ctx, nothing)

    async def test_a_name_that_is_none_so_far_is_free(self, sessions):
        ctx = SimpleNamespace(chat_id=42, session=None)
        await session(sessions)(ctx, nothing)

        assert "42" == ctx.session.key

    async def test_two_kinds_that_would_overwrite_each_other_are_refused(self, storage, sessions, ctx):
        async def inner():
            await session(Sessions(storage, initial=list), name="other")(ctx, nothing)

        with pytest.raises(ConfigurationError, match="prefix"):
            await session(sessions)(ctx, inner)

    async def test_the_same_kind_under_two_names_is_one_session(self, storage, sessions, ctx):
        async def handler():
            assert ctx.session is ctx.again
            ctx.again.data["n"] = 1

        async def inner():
            await session(sessions, name="again")(ctx, handler)

        async with asyncio.timeout(5):
            await session(sessions)(ctx, inner)

        assert [READ, WRITE] == storage.calls


class TestMulti:
    @pytest.fixture
    def multi(self, storage):
        return MultiSessions(
            user=Sessions(storage, initial=dict, prefix="u:", key=by_user),
            chat=Sessions(storage, initial=dict, prefix="c:"),
        )

    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_each_fragment_is_read_and_saved(self, storage, multi, ctx, make):
        async def handler():
            (await ctx.session.user.get())["n"] = 1
            (await ctx.session.chat.get())["n"] = 2

        await make(multi)(ctx, handler)

        assert ['{"n":1}', '{"n":2}'] == [await storage.stored("u:7"), await storage.stored("c:42")]

    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_a_dict_assigns_fragments_by_name(self, storage, multi, ctx, make):
        """Unlike grammY, which ignores it."""

        async def handler():
            ctx.session = {"user": {"n": 1}}

        await storage.store("c:42", '{"n":2}')
        await make(multi)(ctx, handler)

        assert ['{"n":1}', '{"n":2}'] == [await storage.stored("u:7"), await storage.stored("c:42")]

    async def test_a_name_that_there_is_not_raises_and_nothing_is_written(self, storage, multi, ctx):
        async def handler():
            ctx.session = {"user": {"n": 1}, "chta": {}}

        with pytest.raises(AttributeError, match="'chta'"):
            await session(multi)(ctx, handler)

        assert await storage.stored("u:7") is None

    @pytest.mark.parametrize("make", [session, lazy_session])
    async def test_none_deletes_every_fragment_that_has_a_key(self, storage, multi, ctx, make):
        """Unlike grammY, which deletes nothing if one of them has no key."""

        async def handler():
            ctx.session = None

        ctx.chat_id = None
        await storage.store("u:7", '{"n":1}')
        await make(multi)(ctx, handler)

        assert await storage.stored("u:7") is None

    async def test_one_without_a_key_raises_only_when_it_is_touched(self, storage, multi, ctx):
        async def handler():
            ctx.session.user.data["n"] = 1
            with pytest.raises(SessionKeyError, match="'chat'"):
                ctx.session.chat.data  # noqa: B018

        ctx.chat_id = None
        await session(multi)(ctx, handler)

        assert '{"n":1}' == await storage.stored("u:7")

    async def test_when_next_raises_nothing_is_written(self, storage, multi, ctx):
        async def handler():
            ctx.session = {"user": {"n": 1}}
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await session(multi)(ctx, handler)

        assert await storage.stored("u:7") is None
