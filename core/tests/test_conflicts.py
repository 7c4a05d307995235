"""What happens when another process saved the same session meanwhile."""

import asyncio
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import pytest
from bot_session import ConflictError, EncodeError, Sessions
from bot_session.merging import merge


@dataclass
class Pizza:
    count: int = 0
    name: str = ""
    toppings: list[str] = field(default_factory=list)


def text(count=0, name="", toppings="[]"):
    return f'{{"count":{count},"name":"{name}","toppings":{toppings}}}'


class Elsewhere:
    """Another process: each time that the session is about to be written, it writes first."""

    def __init__(self, storage, *documents):
        self.storage = storage
        self.documents = list(documents)
        self.write, self.delete = storage.write, storage.delete
        storage.write, storage.delete = self._write, self._delete

    async def _first(self, key):
        if self.documents:
            document = self.documents.pop(0)
            if document is None:
                await self.storage.inner.delete(key)
            else:
                await self.storage.store(key, document)

    async def _write(self, key, value, **options):
        await self._first(key)
        return await self.write(key, value, **options)

    async def _delete(self, key, **options):
        await self._first(key)
        return await self.delete(key, **options)


def sessions(storage, on_conflict="merge"):
    return Sessions(storage, initial=Pizza, on_conflict=on_conflict)


class TestMerging:
    async def test_different_fields_of_both_sides_are_kept(self, storage):
        await storage.store("42", text(1, "a"))
        Elsewhere(storage, text(1, "b"))
        async with sessions(storage).open("42") as session:
            session.data.count = 2

        assert text(2, "b") == await storage.stored("42")

    async def test_the_same_field_changed_on_both_sides_raises_and_leaves_the_others(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        with pytest.raises(ConflictError, match="count") as caught:
            async with sessions(storage).open("42") as session:
                session.data.count = 2
                session.data.name = "mine"

        assert ("count",) == caught.value.fields
        assert text(5) == await storage.stored("42")

    async def test_the_error_tells_both_sides_and_where(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        with pytest.raises(ConflictError, match="'42'") as caught:
            async with sessions(storage).open("42") as session:
                session.data.count = 2

        error = caught.value
        assert (text(2), text(5)) == (error.mine, error.theirs)
        assert ("write", "42", text(1), text(5)) == (error.operation, error.key, error.expected, error.actual)

    async def test_equal_changes_of_one_field_are_a_conflict_too(self, storage):
        """Two updates that both count from 1 to 2 make 3."""
        await storage.store("42", text(1))
        Elsewhere(storage, text(2, "b"))
        with pytest.raises(ConflictError, match="count"):
            async with sessions(storage).open("42") as session:
                session.data.count = 2

    async def test_the_very_same_document_is_a_conflict_too(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(2))
        with pytest.raises(ConflictError, match="count"):
            async with sessions(storage).open("42") as session:
                session.data.count = 2

    async def test_another_programs_way_of_writing_is_no_change(self, storage):
        await storage.store("42", '{\n\t"toppings": [],\n\t"name": "a",\n\t"count": 0\n}')
        Elsewhere(storage, '{"name": "b", "count": 0}')
        async with sessions(storage).open("42") as session:
            session.data.count = 2

        assert text(2, "b") == await storage.stored("42")

    async def test_one_that_was_deleted_meanwhile_raises_and_is_not_raised_from_the_dead(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, None)
        with pytest.raises(ConflictError, match="deleted") as caught:
            async with sessions(storage).open("42") as session:
                session.data.count = 2

        assert (text(2), None) == (caught.value.mine, caught.value.theirs)
        assert await storage.stored("42") is None

    @pytest.mark.parametrize("policy", ["merge", "raise"])
    async def test_deleting_one_that_was_changed_meanwhile_raises(self, storage, policy):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        with pytest.raises(ConflictError) as caught:
            async with sessions(storage, policy).open("42") as session:
                session.data = None

        assert (None, text(5)) == (caught.value.mine, caught.value.theirs)
        assert text(5) == await storage.stored("42")

    async def test_deleting_one_that_was_deleted_meanwhile_is_no_conflict(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, None)
        async with sessions(storage).open("42") as session:
            session.data = None

        assert await storage.stored("42") is None

    async def test_one_that_both_sides_created_starts_from_initial_data(self, storage):
        Elsewhere(storage, text(0, "theirs"))
        async with sessions(storage).open("42") as session:
            session.data.count = 2

        assert text(2, "theirs") == await storage.stored("42")

    async def test_what_both_sides_created_differently_raises(self, storage):
        Elsewhere(storage, text(1))
        with pytest.raises(ConflictError, match="count"):
            async with sessions(storage).open("42") as session:
                session.data.count = 2

        assert text(1) == await storage.stored("42")

    async def test_one_that_was_created_meanwhile_is_not_overwritten_without_initial_either(self, storage):
        Elsewhere(storage, '{"theirs":1}')
        async with Sessions(storage).open("42") as session:
            session.data = {"mine": 1}

        assert '{"theirs":1,"mine":1}' == await storage.stored("42")

    @pytest.mark.parametrize(
        ("before", "mine", "theirs"), [("[1]", [1, 2], "[1,3]"), ("1", 2, "2"), ("1", 2, '{"a":1}')]
    )
    async def test_data_without_fields_raises(self, storage, before, mine, theirs):
        await storage.store("42", before)
        Elsewhere(storage, theirs)
        with pytest.raises(ConflictError, match="no fields"):
            async with Sessions(storage).open("42") as session:
                session.data = mine

        assert theirs == await storage.stored("42")

    async def test_it_is_done_again_until_it_is_settled(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, *(text(1, name) for name in "abcde"))
        async with sessions(storage).open("42") as session:
            session.data.count = 2

        assert text(2, "e") == await storage.stored("42")

    async def test_it_has_an_end(self, storage, monkeypatch):
        monkeypatch.setattr("bot_session.documents.ATTEMPTS", 3)
        await storage.store("42", text(1))
        Elsewhere(storage, *(text(1, name) for name in "abcdefgh"))
        with pytest.raises(ConflictError):
            async with sessions(storage).open("42") as session:
                session.data.count = 2

        assert text(1, "d") == await storage.stored("42")

    async def test_after_a_save_midway_the_session_shows_what_was_merged(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(1, "theirs"))
        async with sessions(storage).open("42") as session:
            session.data.count = 2
            await session.save()

            assert Pizza(2, "theirs") == session.data
            session.data.name += "+mine"
        assert text(2, "theirs+mine") == await storage.stored("42")

    async def test_what_was_merged_midway_is_not_written_again(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(1, "theirs"))
        async with sessions(storage).open("42") as session:
            session.data.count = 2
            await session.save()
            before = list(storage.calls)

        assert before == storage.calls

    @pytest.mark.parametrize("meanwhile", [False, True])
    async def test_whoever_holds_the_data_goes_on_with_what_was_merged_midway(self, storage, meanwhile):
        await storage.store("42", text(1))
        Elsewhere(storage, text(1, "theirs"))
        async with sessions(storage).open("42") as session:
            pizza = session.data
            pizza.count = 2
            storage.gate.clear()
            saving = asyncio.create_task(session.save())
            await asyncio.sleep(0)
            if meanwhile:
                pizza.toppings.append("ham")
            storage.gate.set()
            await saving
            if not meanwhile:
                pizza.toppings.append("ham")

        assert text(2, "theirs", '["ham"]') == await storage.stored("42")

    async def test_a_change_while_it_is_merged_midway_may_conflict_too(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(1, "theirs"))
        with pytest.raises(ConflictError, match="name"):
            async with sessions(storage).open("42") as session:
                session.data.count = 2
                storage.gate.clear()
                saving = asyncio.create_task(session.save())
                await asyncio.sleep(0)
                session.data.name = "mine"
                storage.gate.set()
                with pytest.raises(ConflictError, match="name"):
                    await saving

        assert text(2, "theirs") == await storage.stored("42")

    async def test_saving_twice_at_once_is_no_conflict(self, storage):
        await storage.store("42", text(1))
        async with sessions(storage, "raise").open("42") as session:
            session.data.count = 2
            storage.gate.clear()
            saving = [asyncio.create_task(session.save()) for _ in range(2)]
            await asyncio.sleep(0)
            session.data.count = 3
            storage.gate.set()
            await asyncio.gather(*saving)

        assert text(3) == await storage.stored("42")

    async def test_neither_is_the_end_while_it_is_being_saved(self, storage):
        await storage.store("42", text(1))
        async with sessions(storage, "raise").open("42") as session:
            session.data.count = 2
            storage.gate.clear()
            saving = asyncio.create_task(session.save())
            await asyncio.sleep(0)
            session.data.count = 3
            asyncio.get_running_loop().call_later(0.01, storage.gate.set)
        await saving

        assert text(3) == await storage.stored("42")

    async def test_what_comes_out_must_be_such_data(self, storage):
        @dataclass
        class Shift:
            start: int = 0
            end: int = 10

            def __post_init__(self):
                if self.start > self.end:
                    raise ValueError("start after end")

        await storage.store("42", '{"start":1,"end":10}')
        Elsewhere(storage, '{"start":1,"end":5}')
        with pytest.raises(ConflictError, match=r"does not go together: .* start after end"):
            async with Sessions(storage, initial=Shift).open("42") as session:
                session.data.start = 8

        assert '{"start":1,"end":5}' == await storage.stored("42")

    @pytest.mark.parametrize("admins", ["[7,15]", "[15,7]"])
    async def test_sets_that_come_in_another_order_have_not_changed(self, storage, admins):
        @dataclass
        class Group:
            count: int = 0
            name: str = ""
            admins: set[int] = field(default_factory=set)

        groups = Sessions(storage, initial=Group)
        await groups.update("42", lambda _: Group(admins={7, 15}))  # They change places whenever they are read.
        storage.calls.clear()
        for _ in range(2):
            async with groups.open("42") as session:
                assert {7, 15} == session.data.admins

        assert [("read", "42")] * 2 == storage.calls

        await storage.store("42", f'{{"count":0,"name":"","admins":{admins}}}')
        Elsewhere(storage, '{"count":0,"name":"theirs","admins":[15,7,1]}')
        async with groups.open("42") as session:
            session.data.count += 1

        assert Group(1, "theirs", {1, 7, 15}) == await groups.read("42")

    @pytest.mark.parametrize(
        "policy", ["merge", "overwrite", "raise", lambda mine, theirs, base: (base is None) and mine]
    )
    async def test_initial_data_need_not_be_readable(self, storage, policy):
        class Cart(TypedDict):
            items: list[str]
            count: NotRequired[int]

        Elsewhere(storage, '{"items":["theirs"]}')
        opening = Sessions(storage, initial=Cart, on_conflict=policy).open("42")
        if policy in {"merge", "raise"}:
            with pytest.raises(ConflictError):
                async with opening as session:
                    session.data["items"] = ["mine"]
        else:
            async with opening as session:
                session.data["items"] = ["mine"]

        kept = "theirs" if policy in {"merge", "raise"} else "mine"
        assert f'{{"items":["{kept}"]}}' == await storage.stored("42")

    @pytest.mark.parametrize(
        ("base", "mine", "theirs", "merged"),
        [
            ("[1]", "[1,2]", "[1]", "[1,2]"),
            ("[1]", "[1]", "[1,2]", "[1,2]"),
            ('{"a":1}', None, '{"a":1}', None),
            ('{"a":1}', '{"a":1}', None, None),
            ('{"a":1,"b":1}', '{"a":2,"b":1}', '{"a":1,"b":1,"c":3}', '{"a":2,"b":1,"c":3}'),
            ('{"a":1,"b":1}', '{"b":1}', '{"a":1,"b":2}', '{"b":2}'),
            ('{"a":1,"b":1}', '{"a":5,"b":1}', '{"a":1}', '{"a":5}'),
            ('{"a":1}', '{"a":1}', "{}", "{}"),
            (None, '{"a":1}', '{"b":1}', '{"b":1,"a":1}'),
            ('{"a":1,"b":[]}', '{"a":true,"b":[]}', '{"a":1,"b":[1.0]}', '{"a":true,"b":[1.0]}'),
            (r'{"a":"\ud800"}', r'{"a":"\ud800","b":1}', r'{"a":"\udfff"}', r'{"a":"\udfff","b":1}'),
        ],
    )
    def test_fields_are_added_changed_and_removed(self, base, mine, theirs, merged):
        assert merged == merge(base, mine, theirs)

    @pytest.mark.parametrize(
        ("mine", "theirs"), [("{}", '{"a":2}'), ('{"a":2}', "{}"), ("{}", "{}"), ('{"a":1.0}', '{"a":true}')]
    )
    def test_a_field_that_one_side_removed_and_the_other_changed_raises(self, mine, theirs):
        with pytest.raises(ConflictError) as caught:
            merge('{"a":1}', mine, theirs)

        assert ("a",) == caught.value.fields


class TestRaising:
    async def test_any_change_elsewhere_raises_with_both_sides(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(1, "theirs"))
        with pytest.raises(ConflictError) as caught:
            async with sessions(storage, "raise").open("42") as session:
                session.data.count = 2

        assert (text(2), text(1, "theirs")) == (caught.value.mine, caught.value.theirs)
        assert "42" == caught.value.key
        assert text(1, "theirs") == await storage.stored("42")

    async def test_one_that_was_created_meanwhile_raises(self, storage):
        Elsewhere(storage, text(5))
        with pytest.raises(ConflictError):
            async with sessions(storage, "raise").open("42") as session:
                session.data.count = 2

        assert text(5) == await storage.stored("42")


class TestOverwriting:
    @pytest.mark.parametrize("theirs", [text(5), None])
    async def test_the_last_one_wins(self, storage, theirs):
        await storage.store("42", text(1))
        Elsewhere(storage, theirs)
        async with sessions(storage, "overwrite").open("42") as session:
            session.data.count = 2

        assert text(2) == await storage.stored("42")

    async def test_deleting_wins_too(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        async with sessions(storage, "overwrite").open("42") as session:
            session.data = None

        assert await storage.stored("42") is None


class TestAFunction:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_it_decides_from_both_sides_and_where_they_started(self, storage, kind):
        def add(mine, theirs, base):
            return Pizza(mine.count + theirs.count - base.count, "settled")

        async def add_later(mine, theirs, base):
            return add(mine, theirs, base)

        await storage.store("42", text(1))
        Elsewhere(storage, text(10))
        async with sessions(storage, add if kind == "sync" else add_later).open("42") as session:
            session.data.count = 2
            await session.save()

            assert Pizza(11, "settled") == session.data
        assert text(11, "settled") == await storage.stored("42")

    async def test_deleted_and_never_stored_are_none(self, storage):
        sides = []

        def note(mine, theirs, base):
            sides.append((mine, theirs, base))
            return mine or theirs

        await storage.store("42", text(1))
        Elsewhere(storage, None)
        async with sessions(storage, note).open("42") as session:
            session.data.count = 2
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        async with sessions(storage, note).open("42") as session:
            session.data = None

        assert [(Pizza(2), None, Pizza(1)), (None, Pizza(5), Pizza(1))] == sides
        assert text(5) == await storage.stored("42")

    async def test_none_from_it_deletes(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        async with sessions(storage, lambda *_: None).open("42") as session:
            session.data.count = 2
            await session.save()

            assert session.data is None
        assert await storage.stored("42") is None

    async def test_after_it_deleted_midway_new_data_is_written_whatever_it_is(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        async with sessions(storage, lambda *_: None).open("42") as session:
            session.data.count = 2
            await session.save()
            session.data = Pizza(1)

        assert text(1) == await storage.stored("42")

    async def test_what_it_returns_must_come_back_as_it_is(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        with pytest.raises(EncodeError):
            async with sessions(storage, lambda *_: Pizza("many")).open("42") as session:
                session.data.count = 2

        assert text(5) == await storage.stored("42")

    async def test_its_error_reaches_the_caller_and_nothing_is_written(self, storage):
        await storage.store("42", text(1))
        Elsewhere(storage, text(5))
        kind = sessions(storage, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            async with kind.open("42") as session:
                session.data.count = 2

        assert text(5) == await storage.stored("42")
        assert 0 == len(kind.desk.locks)

    async def test_it_is_asked_again_with_what_came_in_between(self, storage):
        asked = []

        def add(mine, theirs, base):
            asked.append(theirs.count)
            return Pizza(mine.count + theirs.count)

        await storage.store("42", text(1))
        Elsewhere(storage, text(10), text(20), text(30))
        async with sessions(storage, add).open("42") as session:
            session.data.count = 2

        assert [10, 20, 30] == asked
        assert text(32) == await storage.stored("42")
