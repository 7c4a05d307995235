"""
Where the servers of the tests come from, in this order.

1. The address in ``BOT_SESSION_TEST_<SERVICE>_URL``.
2. A container, when asked for with ``BOT_SESSION_TEST_CONTAINERS=1``, or when Docker has the image already. The image
   is the one of ``BOT_SESSION_TEST_<SERVICE>_IMAGE``, or the service's in the nearest ``docker-compose.yml``.
3. A server out of a PyPI wheel.
4. A container whose image Docker still has to fetch.
5. None: the test is skipped with the reason, but where ``CI`` is set it fails, since nobody reads the skips there.

When asked for, containers are all there is, with one exception: a service with a stand-in takes that if its image is
neither named in the environment nor to be had.

Every pytest-xdist worker starts servers of its own. They listen on free ports and keep their data in the worker's
temporary directory.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from testcontainers.core.container import DockerContainer

__all__ = [
    "HOST",
    "START_TIMEOUT",
    "Container",
    "Group",
    "Owned",
    "Process",
    "Server",
    "Source",
    "find_server",
    "free_port",
    "image",
    "unavailable",
    "wait_until_ready",
]

START_TIMEOUT = 60.0
"""Seconds within which a server must answer: generous, since a slow machine is no failed test."""

HOST = "host.docker.internal"
"""The name under which a container reaches the ports of this machine, those of other containers among them."""

Source: TypeAlias = Literal["environment", "container", "wheel"]


class Owned(Protocol):
    """A server that we started and may therefore stop."""

    def start(self) -> None:
        """Start it, for the first time or after `stop` or `kill`, without waiting until it answers."""

    def stop(self) -> None:
        """Shut it down in an orderly way, keeping its data."""

    def kill(self) -> None:
        """End it at once, keeping its data. If it does not run, nothing happens."""

    def remove(self) -> None:
        """End it for good."""

    def alive(self) -> bool:
        """Return whether it is being started or runs."""
        ...

    def log(self) -> str:
        """Return what it wrote to its output."""
        ...


class Server:
    """
    A server that answers.

    Attributes:
        url: Its address, with user and password if it has them.
        source: Where it came from.
        version: What it says its version is.
    """

    def __init__(self, url: str, source: Source, ready: Callable[[str], str], owned: Owned | None = None) -> None:
        self.url = url
        self.source = source
        self._ready = ready
        self._owned = owned
        self.version = wait_until_ready(ready, url, owned)

    def start(self) -> None:
        """Start it after `stop` or `kill`, at the same address with the same data, and wait until it answers."""
        self._ours.start()
        self.version = wait_until_ready(self._ready, self.url, self._owned)

    def stop(self) -> None:
        """Shut it down in an orderly way."""
        self._ours.stop()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._ours.kill()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def url_with(self, query: str) -> str:
        """Return its address with ``query`` added to the one that it may have."""
        return f"{self.url}{'&' if '?' in self.url else '?'}{query}"

    def log(self) -> str:
        """Return what it wrote to its output."""
        return self._ours.log()

    @property
    def _ours(self) -> Owned:
        if self._owned is None:
            unavailable(f"{self.source} server: not ours to stop")
        return self._owned

    def __repr__(self) -> str:
        return f"<Server from {self.source}, version {self.version}>"


class Process:
    """
    A server as a child process. Its output goes to the file ``log`` in its directory.

    Args:
        command: The program and its arguments.
        directory: Where it runs; made if missing.
        environment: Variables added to ours.
        user: Whom to run it as, for servers that refuse to run as root.
        patience: How many seconds `stop` waits before it kills.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | int | None = None,
        patience: float = 10.0,
    ) -> None:
        self._command = [str(part) for part in command]
        self._directory = directory
        self._environment = {**os.environ, **(environment or {})}
        self._user = user
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        with (self._directory / "log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                cwd=self._directory,
                env=self._environment,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        # The fixture ends it; this is for a session that is torn down before its fixtures are.
        atexit.register(self.kill)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(self._patience)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        self.kill()
        atexit.unregister(self.kill)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")


class Group:
    """Several servers as one: a cluster, a master with its replica."""

    def __init__(self, members: Sequence[Owned]) -> None:
        self.members = members

    def start(self) -> None:
        for member in self.members:
            member.start()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def remove(self) -> None:
        for member in self.members:
            member.remove()

    def alive(self) -> bool:
        return all(member.alive() for member in self.members)

    def log(self) -> str:
        return "\n".join(member.log() for member in self.members)


class Container:
    """
    A server in a container.

    Args:
        image: The image to run.
        ports: Port on this machine → port in the container. Fixed, so that a restart keeps the address.
        command: What to run instead of the image's own command.
        environment: Variables for it.
    """

    def __init__(
        self,
        image: str,
        ports: Mapping[int, int],
        *,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._image = image
        self._ports = ports
        self._command = command
        self._environment = environment or {}
        self._container: DockerContainer | None = None

    def start(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().start()
            return
        # Imported here since it is an extra, and asks Docker for its address as it is imported.
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        container = DockerContainer(self._image).with_envs(**self._environment)
        container.with_kwargs(extra_hosts={HOST: "host-gateway"})  # Docker on Linux does not know it by itself.
        if self._command is not None:
            container.with_command(list(self._command))
        for ours, theirs in self._ports.items():
            container.with_bind_ports(theirs, ours)
        self._container = container.start()

    def stop(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        if self._container is not None and self.alive():
            self._container.get_wrapped_container().kill()
            self._container.get_wrapped_container().wait()

    def remove(self) -> None:
        if self._container is not None:
            self._container.stop()

    def alive(self) -> bool:
        if self._container is None:
            return False
        self._container.reload()
        return self._container.status in ("created", "running")

    def log(self) -> str:
        if self._container is None:
            return ""
        return b"\n".join(self._container.get_logs()).decode(errors="replace")


@contextlib.contextmanager
def find_server(
    service: str,
    *,
    url: str,
    ready: Callable[[str], str],
    container: Callable[[str], Owned] | None = None,
    wheel: Callable[[], Owned] | None = None,
    image_of: str | None = None,
    stand_in: bool = False,
) -> Iterator[Server]:
    """
    Give a server of ``service`` for the length of the block; skip or fail if there is none.

    Args:
        service: Its name in ``docker-compose.yml``; in capitals, and with ``_`` for ``-``, in the variables' names.
        url: The address that a server of ours will have. One from the environment brings its own.
        ready: Returns the version of the server at an address; raises as long as it does not answer.
        container: Makes, without starting it, the container that runs an image.
        wheel: Makes, without starting it, the server from a wheel; raises `ImportError` if that is not installed.
        image_of: The service whose image it runs, if that is another one.
        stand_in: Whether ``wheel`` will do where a container is asked for and nobody has its image.
    """
    if given := os.environ.get(_variable(service, "URL")):
        yield Server(given, "environment", ready)
        return
    source, owned = _choose(image_of or service, container, wheel, stand_in=stand_in)
    try:
        owned.start()
        yield Server(url, source, ready, owned)
    finally:
        owned.remove()


def image(service: str) -> str | None:
    """Return the image that a container of ``service`` runs; None if neither environment nor compose file names it."""
    if given := os.environ.get(_variable(service, "IMAGE")):
        return given
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).parents):
        compose = folder / "docker-compose.yml"
        if compose.is_file():
            # The core has no YAML parser; a service and its image stand at fixed depths, which a test holds true.
            block = re.search(rf"^  {re.escape(service)}:\n((?:    .*\n|\n)+)", compose.read_text(), re.MULTILINE)
            found = block and re.search(r"^    image: (\S+)", block[1], re.MULTILINE)
            if found:
                return found[1]
    return None


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(ready: Callable[[str], str], url: str, owned: Owned | None = None) -> str:
    """
    Return what ``ready(url)`` returns as soon as it raises no more.

    Raises:
        RuntimeError: The server ended, or did not answer within `START_TIMEOUT`; with the end of its output.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return ready(url)
        except Exception as error:
            if time.monotonic() > deadline or (owned is not None and not owned.alive()):
                log = owned.log()[-4000:] if owned is not None else ""
                raise RuntimeError(f"the server does not answer; the end of its output:\n{log}") from error
        time.sleep(0.02)


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI is set, so this is a failure", pytrace=False)
    pytest.skip(reason)


def _choose(
    service: str, container: Callable[[str], Owned] | None, wheel: Callable[[], Owned] | None, *, stand_in: bool
) -> tuple[Source, Owned]:
    name = image(service) if container is not None else None
    asked = os.environ.get("BOT_SESSION_TEST_CONTAINERS") == "1" and not (stand_in and _is_nowhere(service, name))
    if container is not None and name is not None and (asked or _docker("image", "inspect", name)):
        return "container", container(name)
    if asked and container is not None:
        unavailable(f"no image for {service}: set {_variable(service, 'IMAGE')}")
    reason = "no wheel has one"
    if wheel is not None:
        try:
            return "wheel", wheel()
        except ImportError as error:
            reason = str(error)
    if container is not None and name is not None and _docker("info"):
        return "container", container(name)
    unavailable(f"no {service} server: set {_variable(service, 'URL')}, or start Docker ({reason})")


def _is_nowhere(service: str, name: str | None) -> bool:
    """Return whether an image is neither here nor in its registry. One that the environment names has to be."""
    if os.environ.get(_variable(service, "IMAGE")):
        return False
    return name is None or not (_docker("image", "inspect", name) or _docker("pull", name, timeout=600))


def _docker(*command: str, timeout: float = 20) -> bool:
    """Return whether Docker can be driven from here, and can do this."""
    program = shutil.which("docker")
    if program is None or importlib.util.find_spec("testcontainers") is None:
        return False
    return subprocess.run([program, *command], capture_output=True, check=False, timeout=timeout).returncode == 0  # noqa: S603


def _variable(service: str, what: str) -> str:
    return f"BOT_SESSION_TEST_{service.upper().replace('-', '_')}_{what}"
