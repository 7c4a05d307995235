"""What `Documents` remembers of what it wrote."""

from bot_session import MemoryStorage, Sessions


async def add(sessions, key):
    async with sessions.open(key) as session:
        session.data["count"] = session.data.get("count", 0) + 1


class TestWhatItWroteItself:
    async def test_is_remembered_of_tens_of_thousands_in_little_memory(self, monkeypatch):
        count, storage = 30_000, MemoryStorage()
        sessions = Sessions(storage, initial=dict, type=dict[str, int])
        before = len(sessions.documents._own)
        data = [{"count": 10 * number} for number in range(count)]
        for number, text in enumerate(map(sessions.documents.codec.encode, data)):
            sessions.documents.verify("", data[number], text)
            await storage.write(str(number), text)
        spelled_out = []
        monkeypatch.setattr(sessions.documents.codec, "canonical", lambda text: spelled_out.append(text) or text)
        for number in range(count):
            await add(sessions, str(number))

        # Two may meet in one place.
        assert len(spelled_out) < count / 4
        assert before == len(sessions.documents._own) <= 2**20

    async def test_is_remembered_for_good_where_nothing_else_is_written(self, monkeypatch):
        sessions = Sessions(MemoryStorage(), initial=dict, type=dict[str, int])
        monkeypatch.setattr(sessions.documents.codec, "canonical", None)
        for _ in range(100):
            await add(sessions, "42")

        assert 100 == (await sessions.read("42"))["count"]

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
