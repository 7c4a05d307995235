"""
What one document needs, in plain commands: they spare the server the start of a script, 10 to 20 microseconds.

For one server: in a cluster redis-py sends only one command at a time, and takes the answers apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bot_session.storage import ABSENT, Condition
from redis.exceptions import ResponseError

from ._scripts import life

if TYPE_CHECKING:
    from bot_session.storage import Write

    from ._links import Single

__all__ = ["Plain"]

IFEQ: Final = b"IFEQ"
"""SET only what is stored as it was read (valkey.io/commands/set, redis.io/docs/latest/commands/set)."""

_GONE: Final = -2
"""What PTTL says of no key (redis.io/docs/latest/commands/pttl)."""


class Plain:
    """
    Reads and sets one document without a script.

    Args:
        link: To the server.
    """

    def __init__(self, link: Single) -> None:
        self._link = link
        self._knows_ifeq = True

    async def read(self, key: bytes) -> tuple[bytes | None, int]:
        """
        Return what the script `READ` gives of one key.

        Somebody may come in between. Then it is the document from before, with the time that the one after has left:
        no write that matches this document finds it any more. What is gone by then was not there.
        """
        value, left = await self._link.send_together((b"GET", key), (b"PTTL", key))
        return (None, left) if left == _GONE else (value, left)

    async def set(self, write: Write) -> bool:
        """
        Do what the script `WRITE` does, where one command can, and return whether the document is written.

        If it is not, nothing was done, and the script tells why, or does it. Only conditions that no document of
        another type meets are tried: a plain SET would overwrite whatever there is.
        """
        assert write.value is not None  # noqa: S101 - deletes are for the script
        if write.match is ABSENT:
            condition: tuple[bytes, ...] = (b"NX",)
        elif isinstance(write.match, Condition) or not self._knows_ifeq:
            return False
        else:
            condition = (IFEQ, write.match.encode())
        lasting = () if write.ttl is None else (b"PX", life(write.ttl))
        key = write.key.encode()
        try:
            return await self._link.send(key, b"SET", key, write.value.encode(), *lasting, *condition) is not None
        except ResponseError as error:
            # What begins with a code, or has a class, is about something else. redis-py takes the code ERR away.
            if type(error) is not ResponseError or str(error).partition(" ")[0].isupper():
                raise
            self._knows_ifeq = False  # a server from before Redis 8.4 and Valkey 8.1, or one that speaks alike
            return False
