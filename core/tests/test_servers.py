"""Where the servers of the tests come from."""

from __future__ import annotations

import re
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
from bot_session.testing.servers import base

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listening(tmp_path):
    """A server that accepts connections, made of Python."""
    port = base.free_port()
    program = (
        f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True)\nwhile 1: s.accept()"
    )
    return port, lambda: base.Process([sys.executable, "-c", program], tmp_path)


def connects(url):
    """What `find_server` wants to know: raises if nobody listens at ``host:port``."""
    host, port = url.split(":")
    with socket.create_connection((host, int(port)), 1):
        return "1.0"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("BOT_SESSION_TEST_THING_URL", "BOT_SESSION_TEST_THING_IMAGE", "BOT_SESSION_TEST_CONTAINERS", "CI"):
        monkeypatch.delenv(name, raising=False)


def test_every_service_of_the_compose_file_names_its_image(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docker-compose.yml").read_text()
    services = re.findall(r"^  (\w+):$", text, re.MULTILINE)
    images = re.findall(r"^    image: (\S+)$", text, re.MULTILINE)

    for service in services:
        monkeypatch.delenv(f"BOT_SESSION_TEST_{service.upper()}_IMAGE", raising=False)
    assert images == [base.image(service) for service in services]


def test_an_image_of_the_environment_goes_first(monkeypatch):
    monkeypatch.setenv("BOT_SESSION_TEST_REDIS_IMAGE", "local/redis:1")

    assert base.image("redis") == "local/redis:1"


def test_the_address_of_the_environment_goes_first(monkeypatch, listening):
    port, make = listening
    process = make()
    process.start()
    monkeypatch.setenv("BOT_SESSION_TEST_THING_URL", f"127.0.0.1:{port}")
    try:
        with base.find_server("thing", url="nowhere:1", ready=connects) as server:
            assert (server.source, server.url) == ("environment", f"127.0.0.1:{port}")
            with pytest.raises(pytest.skip.Exception):
                server.kill()
    finally:
        process.remove()


def test_a_server_of_ours_is_killed_started_and_gone_at_the_end(listening):
    port, make = listening
    with base.find_server("thing", url=f"127.0.0.1:{port}", ready=connects, wheel=make) as server:
        assert (server.source, server.version) == ("wheel", "1.0")
        server.kill()
        with pytest.raises(OSError, match="refused"):
            connects(server.url)
        server.start()
        connects(server.url)
        assert "up" in server.log()
    with pytest.raises(OSError, match="refused"):
        connects(f"127.0.0.1:{port}")


def test_a_server_that_ends_at_once_says_why(tmp_path):
    def wheel():
        return base.Process([sys.executable, "-c", "raise SystemExit('no space left')"], tmp_path)

    with (
        pytest.raises(RuntimeError, match="no space left"),
        base.find_server("thing", url=f"127.0.0.1:{base.free_port()}", ready=connects, wheel=wheel),
    ):
        pytest.fail("there is no server")


def test_without_a_server_a_test_is_skipped():
    with pytest.raises(pytest.skip.Exception, match="BOT_SESSION_TEST_THING_URL"), missing():
        pytest.fail("there is no server")


def test_in_ci_it_fails(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI is set"), missing():
        pytest.fail("there is no server")


def test_where_containers_are_asked_for_a_stand_in_does_only_for_an_image_that_nobody_has(monkeypatch, listening):
    def container(image):
        raise LookupError(image)

    port, make = listening
    monkeypatch.setenv("BOT_SESSION_TEST_CONTAINERS", "1")
    find = partial(base.find_server, "thing", url=f"127.0.0.1:{port}", ready=connects, container=container, wheel=make)
    with find(stand_in=True) as server:
        assert server.source == "wheel"
    with pytest.raises(pytest.skip.Exception, match="no image for thing"), find():
        pytest.fail("a container was asked for")
    monkeypatch.setenv("BOT_SESSION_TEST_THING_IMAGE", "local/thing:1")
    with pytest.raises(LookupError, match="local/thing:1"), find(stand_in=True):
        pytest.fail("a container of this image was asked for")


def missing():
    def wheel():
        raise ImportError("no wheel")

    return base.find_server("thing", url="127.0.0.1:1", ready=connects, wheel=wheel)
