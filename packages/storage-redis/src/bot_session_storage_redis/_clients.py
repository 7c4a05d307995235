"""From a URL to a client of redis-py, which reads everything in it but what redis-py has no notion of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from bot_session.errors import ConfigurationError
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Client", "Closing", "connect"]

Client: TypeAlias = Redis | RedisCluster

Closing: TypeAlias = "Callable[[], Awaitable[None]]"

_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+unix": "unix",
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
}
"""Our schemes, and what redis-py calls them."""


def connect(
    url: str, *, timeout: float, max_connections: int, sentinel_username: str | None, sentinel_password: str | None
) -> tuple[Client, Closing]:
    """
    Return a client and what closes it. It connects when it is used, again after it was closed.

    Raises:
        ConfigurationError: The URL is wrong. Its values are left out of the message: one may be a password.
    """
    scheme, _, rest = url.partition(":")
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"a Redis URL starts with one of {', '.join(_SCHEMES)}, not with {scheme!r}")
    driver_url = f"{_SCHEMES[scheme]}:{rest}"
    options: dict[str, Any] = {"max_connections": max_connections}
    if scheme != "redis+unix":
        options["socket_connect_timeout"] = timeout
    try:
        if scheme.endswith("+cluster"):
            cluster = RedisCluster.from_url(driver_url, socket_timeout=timeout, **options)
            _encode_something(cluster)
            return cluster, lambda: _close_cluster(cluster)
        options["socket_timeout"] = None  # `Single` has its own
        # A server that cannot be reached is an answer too, and the caller knows best whether to wait.
        options["retry"] = Retry(NoBackoff(), 0)
        if scheme.endswith("+sentinel"):
            to_sentinel = {"username": sentinel_username, "password": sentinel_password}
            client, close = _sentinel(driver_url, options, to_sentinel)
        else:
            client = Redis.from_url(driver_url, **options)
            close = client.aclose
        # redis-py finds a wrong option only when it makes a connection, which does not connect yet.
        pool: Any = client.connection_pool
        pool.make_connection()
        _encode_something(client)
    except ConfigurationError:
        raise
    except TypeError as error:
        raise ConfigurationError(f"redis-py does not know an option of the URL: {error}") from None
    except (ValueError, LookupError, RedisError, RedisClusterException) as error:
        raise ConfigurationError(f"redis-py does not take the URL: {type(error).__name__}") from None
    return client, close


def _encode_something(client: Any) -> None:
    """Find out whether there is such an encoding, before it is used for the name of a user."""
    client.get_encoder().encode("")


async def _close_cluster(cluster: RedisCluster) -> None:
    await cluster.aclose()
    # That does nothing if the client meant to look for its nodes again, and leaves the connections open.
    for nodes in ("nodes_cache", "startup_nodes"):
        await cluster.nodes_manager.aclose(nodes)


def _sentinel(url: str, options: dict[str, Any], to_sentinel: dict[str, Any]) -> tuple[Redis, Closing]:
    """Read ``//user:password@host:port,host:port/service/db?option``: redis-py has no URL for Sentinel."""
    address = urlsplit(url)
    login, at, hosts = address.netloc.rpartition("@")
    service, _, db = address.path.strip("/").partition("/")
    if not service or not hosts:
        raise ConfigurationError(
            "a Sentinel URL names the sentinels and the service: redis+sentinel://host:26379,host:26379/service/0"
        )
    # One host in place of all makes it a URL that redis-py reads.
    settings = {**options, **parse_url(f"{address.scheme}://{login}{at}sentinel/{db}?{address.query}")}
    del settings["host"]
    settings.pop("connection_class", None)
    shared = {name: settings[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    make: Any = Sentinel  # which redis-py leaves without types
    sentinel = make([_host_and_port(host) for host in hosts.split(",")], sentinel_kwargs={**shared, **to_sentinel})
    client: Redis = sentinel.master_for(service, ssl=address.scheme == "rediss", **settings)

    async def close() -> None:
        await client.aclose()
        for watcher in sentinel.sentinels:
            await watcher.aclose()

    return client, close


def _host_and_port(text: str) -> tuple[str, int]:
    address = urlsplit(f"//{text}")
    return address.hostname or "localhost", address.port or 26379
