"""What an update costs on the way to a server: counted in between, as often as the talk turns from client to server."""

from urllib.parse import urlsplit, urlunsplit

import pytest
from bot_session import Sessions, open_storage
from bot_session.testing.proxy import Proxy


class Counting(Proxy):
    """Counts round trips: requests that follow an answer."""

    def __init__(self, host, port):
        super().__init__(host, port)
        self._server_port = port
        self._asking = False
        self.trips = 0

    async def _pump(self, source, target):
        asking = target.get_extra_info("peername")[1] == self._server_port
        while data := await source.read(65_536):
            self.trips += asking and not self._asking
            self._asking = asking
            target.write(data)
            await target.drain()
        target.close()


@pytest.mark.parametrize(
    ("name", "lock", "opening", "saving"),
    [
        ("redis", "process", 1, 1),
        ("redis", "shared", 1, 1),
        ("postgres", "process", 1, 1),
        ("postgres", "shared", 2, 1),
        ("supabase", "process", 1, 1),
        ("supabase", "shared", 2, 1),
    ],
)
async def test_an_update_costs(make_url, open_url, name, lock, opening, saving):
    direct = make_url(name)
    await open_url(direct)
    parts = urlsplit(direct)
    async with Counting(parts.hostname, parts.port) as proxy:
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        through = urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}"))
        async with open_storage(through) as storage:
            sessions = Sessions(storage, initial=dict, lock=lock)
            for n in range(3):  # At first a driver prepares its statements.
                proxy.trips = 0
                async with sessions.open("42") as session:
                    opened, proxy.trips = proxy.trips, 0
                    session.data["n"] = n

            assert (opening, saving) == (opened, proxy.trips)
            assert {"n": 2} == await sessions.read("42")
