"""Fifty keys of ours among a hundred thousand of somebody else's: in one table, collection, folder or database."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from bot_session import Write
from pymongo import MongoClient

from .conftest import EMBEDDED, SERVED

MANY = 100_000
MANY_FOR_SECANTUSDB = 20_000
"""It looks at every document for each page: 100,000 take it 21 seconds to make and index, and then 7 for a page."""

OURS = sorted(f"ours:{i}" for i in range(50))


def theirs(many, start=0):
    return [f"theirs-{i}" for i in range(start, many)]


def fill_folder(folder):
    for key in theirs(MANY):
        path = Path(folder, key[-2:], f"{key}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0")


def fill_collection(server, name):
    many = MANY_FOR_SECANTUSDB if server.version.startswith("secantusdb") else MANY
    with MongoClient(server.url) as client:
        client.bot_session[name].insert_many({"key": key, "value": 0} for key in theirs(many))


@pytest.fixture
def open_crowded(make_url, open_url, request):
    """A function that opens the storage of a name with the others in it, put there past it where that is quicker."""

    async def open_crowded(name):
        url = make_url(name)
        options = parse_qs(urlsplit(url).query)
        if name == "file":
            fill_folder(url.removeprefix("file:"))
        elif name == "mongo":
            fill_collection(request.getfixturevalue("mongo_server"), options["collection"][0])
            url += "&timeout=60"
        storage = await open_url(url)
        if name == "supabase":
            rows = f"SELECT 'theirs-' || i, '0' FROM generate_series(1, {MANY}) AS i"
            await request.getfixturevalue("postgrest_server").execute(f"INSERT INTO {options['table'][0]} {rows}")
        elif name not in {"file", "mongo"}:
            for start in range(0, MANY, 10_000):
                await storage.write_many([Write(key, "0") for key in theirs(start + 10_000, start)])
        return storage

    return open_crowded


@pytest.mark.parametrize("name", EMBEDDED + SERVED)
async def test_a_listing_of_ours_holds_all_of_ours_and_nothing_else(open_crowded, name):
    storage = await open_crowded(name)
    await storage.write_many([Write(key, "1") for key in OURS])

    assert OURS == sorted([key async for key in storage.read_all_keys("ours:")])
    assert dict.fromkeys(OURS, "1") == {key: record.value async for key, record in storage.read_all_entries("ours:")}
