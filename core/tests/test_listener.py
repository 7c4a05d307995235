import asyncio
import gc
import socket

import pytest
from bot_session.testing.listener import InThread, Listener


async def hold(reader, writer):
    await reader.read()


def open_sockets(port):
    return [
        thing for thing in gc.get_objects() if type(thing) is socket.socket and thing.fileno() >= 0 and on(thing, port)
    ]


def on(thing, port):
    address = thing.getsockname()
    return isinstance(address, tuple) and address[1] == port


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_was_accepted_in_the_last_moment_is_closed_too(turns):
    with socket.socket() as client:

        async def listen():
            listener = Listener(hold)
            await listener.start()
            client.connect(("127.0.0.1", listener.port))
            for _ in range(turns):  # Until the loop has accepted it, and a little longer.
                await asyncio.sleep(0)
            await listener.close()
            return listener.port

        port = asyncio.run(listen())

        assert [] == open_sockets(port)
        assert b"" == ended(client)


def ended(client):
    """What a client reads of a connection that is closed or broken."""
    client.settimeout(5)
    try:
        return client.recv(1)
    except ConnectionResetError:
        return b""


def test_cut_breaks_what_is_open_and_goes_on_listening():
    with InThread(Listener(hold)) as thread:
        address = "127.0.0.1", thread.listener.port
        with socket.create_connection(address, 5) as first:
            first.sendall(b"x")
            while not thread.listener._connections:
                pass
            thread.cut()

            assert b"" == ended(first)
        with socket.create_connection(address, 5):
            pass
