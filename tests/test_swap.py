"""Swapping the storage: the same bot and the same documents everywhere, by changing nothing but a URL."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import pytest
from bot_session import SchemaError, Write, copy_documents, open_storage

from .conftest import EMBEDDED, SERVED

EXAMPLES = Path(__file__).parents[1] / "examples"

DOCUMENTS = {
    "42": '{"count":1}',
    "-1001234567890": '{"big":12345678901234567890,"float":1.5,"text":"ä🍕\\n","list":[1,[2,{"a":null}]],"yes":true}',
    "user/chat:7": '{"v":3,"__d":{"count":1}}',
    "a.b*c%_[x]": '["plain","list"]',
    "ключ": '"text"',
    "": "0",
}


@pytest.fixture(name="pizza_bot")
def the_bot_of_the_readme(monkeypatch):
    pytest.importorskip("aiogram")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("terminal", "pizza_aiogram"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("pizza_aiogram")


async def test_the_same_bot_remembers_in_every_storage(pizza_bot, url, open_url, capsys):
    import terminal

    storage = await open_url(url)
    updates = json.loads((EXAMPLES / "updates.json").read_text("utf-8"))
    totals = []
    for _ in range(2):
        # A router belongs to one dispatcher; a second start has its own.
        pizza_bot.router._parent_router = None
        conversation = terminal.Conversation(pizza_bot.make_dispatcher(storage), storage)
        for update in updates:
            await conversation.feed(update)
        await conversation.end()
        totals.append(capsys.readouterr().out.rstrip().splitlines()[-1])
        await storage.open()

    assert ["So far: 3 🍕", "So far: 6 🍕"] == [line.split("bot  ")[1] for line in totals]


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(EMBEDDED + SERVED, 2)))
async def test_documents_and_their_remaining_life_survive_a_copy(make_url, open_url, source, target):
    origin, copy = await open_url(make_url(source)), await open_url(make_url(target))
    ttls = dict(zip(DOCUMENTS, [None, 100, 1000.5, 86_400 * 30, None, 50], strict=True))
    await origin.write_many([Write(key, value, ttls[key]) for key, value in DOCUMENTS.items()])

    assert (6, 0) == await copy_documents(origin, copy, batch_size=4)
    assert (0, 6) == await copy_documents(origin, copy)

    arrived = {key: record async for key, record in copy.read_all_entries()}

    assert {k: json.loads(v) for k, v in DOCUMENTS.items()} == {k: json.loads(r.value) for k, r in arrived.items()}
    for key, ttl in ttls.items():
        assert arrived[key].ttl == (None if ttl is None else pytest.approx(ttl, abs=30))


async def test_a_document_that_the_target_refuses_is_an_error_and_not_counted_as_copied(tmp_path):
    (tmp_path / "to/2/2.json").mkdir(parents=True)  # where the document's file would be
    async with open_storage(f"file:{tmp_path}/from") as source, open_storage(f"file:{tmp_path}/to") as target:
        await source.write_many([Write("1", "1"), Write("2", "2")])

        with pytest.raises(SchemaError) as caught:
            await copy_documents(source, target)

        assert "2" == caught.value.key
        assert "1" == (await target.read("1")).value
