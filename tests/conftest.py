"""The seven storages, each by a URL and nothing else."""

from __future__ import annotations

import uuid

import pytest
from bot_session import open_storage

EMBEDDED = ["memory", "file", "sqlite"]
SERVED = ["redis", "mongo", "postgres", "supabase"]


@pytest.fixture
def make_url(request, tmp_path):
    """A function from a storage's name to the URL of an empty one, which other processes can use too."""

    def make_url(name):
        alone = f"t{uuid.uuid4().hex}"
        match name:
            case "memory":
                return "memory:"
            case "file":
                return f"file:{tmp_path}/{alone}"
            case "sqlite":
                return f"sqlite:{tmp_path}/{alone}.db"
            case "redis":
                return request.getfixturevalue("redis_server").url_with(f"prefix={alone}:")
            case "mongo":
                return request.getfixturevalue("mongo_server").url_with(f"collection={alone}")
            case "postgres":
                return request.getfixturevalue("postgres_server").url_with(f"table={alone}")
            case "supabase":
                server = request.getfixturevalue("postgrest_server")
                address = server.url.removeprefix("http://")
                return f"supabase://{address}?tls=false&key={server.key('service_role')}&table={alone}"

    return make_url


@pytest.fixture
async def open_url(request):
    """A function that opens a URL, having run the statements that Supabase wants to be run by hand."""
    opened = []

    async def open_url(url):
        storage = open_storage(url)
        opened.append(storage)
        if url.startswith("supabase:"):
            await request.getfixturevalue("postgrest_server").install(storage)
        await storage.open()
        return storage

    yield open_url
    for storage in opened:
        await storage.close()


@pytest.fixture(params=EMBEDDED + SERVED)
async def url(request, make_url):
    """The URL of every storage in turn."""
    return make_url(request.param)


@pytest.fixture(params=["file", "sqlite", *SERVED])
async def shared_url(request, make_url, open_url):
    """The URL of every storage that processes can share, in turn, ready to be used."""
    url = make_url(request.param)
    await open_url(url)
    return url
