"""What `Documents` remembers of what it wrote."""

from bot_session import MemoryStorage, Sessions, documents


async def add(sessions, key):
    async with sessions.open(key) as session:
        session.data["count"] = session.data.get("count", 0) + 1


class TestWhatItWroteItself:
    async def test_is_remembered_of_so_many_texts_and_no_more(self, monkeypatch):
        monkeypatch.setattr(documents, "OWN", 3)
        sessions = Sessions(MemoryStorage(), initial=dict, type=dict[str, int])
        for _ in range(10):
            await add(sessions, "42")

        assert 10 == (await sessions.read("42"))["count"]
        assert len(sessions.documents._own) <= 3

    async def test_is_told_from_what_others_spell_differently_which_is_not_written_unless_it_changes(self):
        storage = MemoryStorage()
        sessions = Sessions(storage, initial=dict, type=dict[str, int])
        await add(sessions, "mine")
        await storage.write("theirs", '{ "count" : 1 }')
        async with sessions.open("theirs") as session:
            assert {"count": 1} == session.data

        assert '{ "count" : 1 }' == (await storage.read("theirs")).value
        await add(sessions, "theirs")
        assert '{"count":2}' == (await storage.read("theirs")).value
