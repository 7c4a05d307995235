"""What runs on the server. Redis runs a script as a whole before it hears anybody else: that is what makes it atomic."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import msgspec
from bot_session.storage import Condition

if TYPE_CHECKING:
    from bot_session.storage import Write

__all__ = ["READ", "TOUCH", "WRITE", "WRITE_THEN_READ", "Script", "arguments_of", "life"]


class Script(msgspec.Struct, frozen=True):
    """
    A script, the hash by which the server knows it once it has seen it, and whether it changes anything.

    All keys of a call must be in one slot if the server is part of a cluster.
    """

    source: bytes
    sha: bytes
    writes: bool


def _script(source: str, *, writes: bool) -> Script:
    raw = source.encode()
    return Script(raw, hashlib.sha1(raw, usedforsecurity=False).hexdigest().encode(), writes)


READ = _script(
    """
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = {redis.call('GET', key), redis.call('PTTL', key)}
end
return found
""",
    writes=False,
)
"""Of each key the document, nil if there is none, and the milliseconds it has left, -1 if it lives for ever."""

_WRITE = """
local results = {}
for i = 1, #ARGV / 4 do
  local key = KEYS[i]
  local condition, expected, value, life = ARGV[i * 4 - 3], ARGV[i * 4 - 2], ARGV[i * 4 - 1], ARGV[i * 4]
  local kind = redis.call('TYPE', key).ok
  local stored = kind == 'string' and redis.call('GET', key)
  if kind ~= 'string' and kind ~= 'none' then
    results[i] = kind
  elseif (condition == 'absent' and stored) or (condition == 'present' and not stored)
      or (condition == 'version' and stored ~= expected) then
    results[i] = {stored}
  elseif life == 'delete' then
    results[i] = redis.call('DEL', key)
  else
    if life == 'forever' then
      redis.call('SET', key, value)
    else
      redis.call('SET', key, value, 'PX', life)
    end
    results[i] = 1
  end
end
"""
_THEN_READ = """
for i = #ARGV / 4 + 1, #KEYS do
  local key = KEYS[i]
  local kind = redis.call('TYPE', key).ok
  results[i] = (kind == 'string' or kind == 'none') and {redis.call('GET', key), redis.call('PTTL', key)}
end
"""

WRITE = _script(f"{_WRITE}return results\n", writes=True)
"""
Write, delete and compare-and-set of each key, in order; a key may come twice. Each has four arguments: condition,
expected document, document, and milliseconds to live, ``forever`` or ``delete``. Gives for each 1 or 0 (whether a
delete found anything); what is stored, in a list, where the condition does not hold; or the type of what is no string
and belongs to somebody else.
"""

WRITE_THEN_READ = _script(f"{_WRITE}{_THEN_READ}return results\n", writes=True)
"""`WRITE` for the keys that have arguments, and then `READ` for the others, giving nil for what is no string."""

TOUCH = _script(
    """
redis.call('STRLEN', KEYS[1])
if ARGV[1] == 'forever' then
  redis.call('PERSIST', KEYS[1])
  return redis.call('EXISTS', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
""",
    writes=True,
)
"""A new time to live; 1 if there was a document, else 0."""


def arguments_of(write: Write) -> tuple[bytes, bytes, bytes, bytes]:
    """What `WRITE` is told about one key."""
    if isinstance(write.match, Condition):
        condition, expected = write.match.value.encode(), b""
    else:
        condition, expected = b"version", write.match.encode()
    if write.value is None:
        return condition, expected, b"", b"delete"
    return condition, expected, write.value.encode(), life(write.ttl)


def life(ttl: float | None) -> bytes:
    """Milliseconds, rounded up: never a TTL of 0, which Redis refuses or takes for "delete"."""
    return b"forever" if ttl is None else b"%d" % math.ceil(ttl * 1000)
