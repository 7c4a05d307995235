"""
Leases: a lock across processes, kept in the storage itself.

The lease of a session is a document beside it, with a short TTL: who holds it, and who waits for it, in order. Taking
it is one compare-and-set write that succeeds if there is none; giving it back is one delete that succeeds if nobody
waits, and otherwise hands it to whoever waited longest. While its holder works, the lease is renewed; when the holder
dies, it runs out.

The session is read after its lease was taken, and written before it is given back, in the same round trip where the
storage can (`Storage.write_then_read`). It need not be a transaction, but the order counts: were the lease seen to be
free before the session is seen to be written, the next holder could read what is about to change.

Nothing depends on the lease being kept: a session's write matches the version that was read, so a holder whose lease
ran out while it was away cannot overwrite what came after.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import Final, cast

import msgspec

from .errors import ConflictError, LockTimeoutError, SchemaError, StorageError, UnavailableError
from .storage import ABSENT, Record, Storage, Version, Write

__all__ = ["LEASE_PREFIX", "Lease", "is_lease"]

LEASE_PREFIX: Final = "bot-session:lease:"
"""What the keys of leases begin with, behind the prefix of a `PrefixedStorage`; no session's key holds it."""

SHORTEST_WAIT: Final = 0.005
LONGEST_WAIT: Final = 0.1
"""Seconds between two looks at a lease that somebody else holds: from the one they double up to the other."""

logger = logging.getLogger("bot_session.leases")


def is_lease(key: str) -> bool:
    """Whether a key is that of a lease, whatever prefix it lies behind: going through sessions passes it over."""
    return LEASE_PREFIX in key


class _Line(msgspec.Struct):
    """
    What a lease's document says.

    Attributes:
        holder: The token of whoever holds it.
        waiting: The tokens of those who wait, in the order in which they came.
    """

    holder: str
    waiting: list[str] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


class Lease:
    """
    The lease of one session, for one update.

    Args:
        storage: Where the session is.
        place: The session's key there.
        ttl: Seconds that the lease lives without being renewed: how long a session of a killed process stays locked.

    Attributes:
        found: The session, by its place, as it was read in the moment of taking the lease; None if it was not read.
    """

    def __init__(self, storage: Storage, place: str, ttl: float) -> None:
        self.key = LEASE_PREFIX + place
        self.found: dict[str, Record] | None = None
        self._storage = storage
        self._place = place
        self._ttl = ttl
        self._token = secrets.token_hex(8)
        self._taken = False
        self._version: Version | None = None  # Of the lease's document, when this one last knew it to be its own;
        self._waiting: list[str] = []  # and who waited then.
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def acquire(self, timeout: float | None) -> None:  # noqa: ASYNC109
        """
        Take the lease, and read the session on the way if nobody has it; otherwise in turn.

        Args:
            timeout: Seconds to wait at most; None is for ever.

        Raises:
            LockTimeoutError: It took longer.
            StorageError: The storage could not be asked.
        """
        try:
            async with asyncio.timeout(timeout):
                if not await self._try():
                    await self._stand_in_line()
        except TimeoutError:
            await self._leave_line()
            raise LockTimeoutError(
                f"session {self._place!r} was in use by another process for more than {timeout:g} s"
            ) from None
        except BaseException:
            await self._leave_line()
            raise
        self._taken = True
        self._timer = asyncio.get_running_loop().call_later(self._ttl / 3, self._begin_renewal)

    async def release(self) -> None:
        """Give the lease back, or hand it to whoever waited longest. If that fails, it runs out by itself."""
        if self._taken:
            self._stop()
            await self._give_back()

    async def release_after(self, write: Write) -> Version | None:
        """
        Write or delete the session, and then give the lease back, as `release` does.

        Returns:
            The version of what is stored now; None after a delete.

        Raises:
            ConflictError: Somebody else has written, since this lease ran out. It is given back all the same.
            StorageError: It could not be written. The lease is given back all the same, or runs out by itself.
        """
        self._stop()
        try:
            (result, parted), _ = await self._storage.write_then_read([[write], [self._parting()]])
        except BaseException:
            await self._give_back()
            raise
        if isinstance(parted, StorageError):
            await self._hand_over()
        if isinstance(result, StorageError):
            raise result
        return None if isinstance(result, bool) else result

    # ------------------------------------------------------------------ taking

    async def _try(self) -> bool:
        """Take the lease if nobody has it."""
        take = Write(self.key, _text(_Line(self._token)), self._ttl, ABSENT)
        try:
            (result,), found = await self._storage.write_then_read([[take]], [self._place])
        except UnavailableError as error:
            if not error.outcome_unknown:
                raise
            # Nobody else can have written this token: if it is there, then by this write.
            if not self._is_holder(await self._look()):
                raise
            return True
        if isinstance(result, ConflictError):
            return False
        if isinstance(result, StorageError):
            raise result
        self._version, self.found = cast("Version", result), found
        return True

    async def _stand_in_line(self) -> None:
        """Wait until the lease is handed over, or is gone and can be taken."""
        pause, holder = SHORTEST_WAIT, ""
        while True:
            found = await self._look()
            if found is None:
                if await self._try():
                    return
                continue
            if self._is_holder(found):
                return
            record, line = found
            if self._token not in line.waiting:
                line.waiting.append(self._token)
                # The holder's time stays as it is: those who wait do not keep a dead one alive.
                if not await self._rewrite(Write(self.key, _text(line), record.ttl, record.version)):
                    continue
            if line.holder != holder:  # Things move: look sooner, and soonest whoever is next.
                pause, holder = SHORTEST_WAIT * (1 + line.waiting.index(self._token)), line.holder
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, LONGEST_WAIT)

    async def _leave_line(self) -> None:
        """Make sure that the lease is not handed to somebody who has gone."""
        try:
            while (found := await self._look()) is not None:
                if self._is_holder(found):
                    await self._give_back()
                    return
                record, line = found
                if self._token not in line.waiting:
                    return
                line.waiting.remove(self._token)
                if await self._rewrite(Write(self.key, _text(line), record.ttl, record.version)):
                    return
        except StorageError as error:
            logger.warning("could not leave the line for session %r; it moves on by itself: %s", self._place, error)

    # ------------------------------------------------------------------ giving back

    def _parting(self) -> Write:
        """What gives the lease back, or hands it over, if nobody has joined the line since it was last looked at."""
        assert self._version is not None  # noqa: S101 - it is known from the moment of taking
        if not self._waiting:
            return Write(self.key, None, None, self._version)
        return Write(self.key, _text(_Line(self._waiting[0], self._waiting[1:])), self._ttl, self._version)

    async def _give_back(self) -> None:
        try:
            if not await self._rewrite(self._parting()):
                await self._hand_over()
        except asyncio.CancelledError:
            await self._hand_over(perhaps_done=True)
            raise
        except StorageError as error:
            self._complain(error)

    async def _hand_over(self, *, perhaps_done: bool = False) -> None:
        """
        Give back what has changed since it was last looked at: somebody has joined the line, or has the lease.

        Cancelled, it is done once more, for which ``perhaps_done``: or others would wait until the lease runs out.
        """
        try:
            while self._is_holder(await self._look()):
                if await self._rewrite(self._parting()):
                    return
        except asyncio.CancelledError:
            if not perhaps_done:
                await self._hand_over(perhaps_done=True)
            raise
        except StorageError as error:
            self._complain(error)
            return
        if not perhaps_done:
            logger.warning("the lease of session %r ran out before its update was over", self._place)

    def _complain(self, error: StorageError) -> None:
        logger.warning("the lease of session %r ends only in %g s: %s", self._place, self._ttl, error)

    # ------------------------------------------------------------------ keeping

    def _begin_renewal(self) -> None:
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        """Give the lease its full life again and again, until it is given back or lost."""
        while True:
            try:
                found = await self._look()
                if found is None or not self._is_holder(found):
                    logger.warning("the lease of session %r was lost; saving will not overwrite", self._place)
                    return
                record, _ = found
                self._version = await self._storage.write(self.key, record.value, ttl=self._ttl, match=record.version)
            except ConflictError:
                continue
            except StorageError as error:
                logger.warning("the lease of session %r could not be renewed: %s", self._place, error)
            await asyncio.sleep(self._ttl / 3)

    def _stop(self) -> None:
        self._taken = False
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()

    # ------------------------------------------------------------------ the document

    async def _look(self) -> tuple[Record, _Line] | None:
        record = await self._storage.read(self.key)
        if record is None:
            return None
        try:
            return record, _decoder.decode(record.value)
        except msgspec.DecodeError as error:
            raise SchemaError("this is no lease: delete it", key=self.key, storage=self._storage) from error

    def _is_holder(self, found: tuple[Record, _Line] | None) -> bool:
        """Whether this lease is the one that was found; if so, remember what giving it back must match."""
        if found is None or found[1].holder != self._token:
            return False
        self._version, self._waiting = found[0].version, found[1].waiting
        return True

    async def _rewrite(self, write: Write) -> bool:
        """Change or delete the document if nobody else has changed it, and say whether that was so."""
        try:
            if write.value is None:
                await self._storage.delete(write.key, match=write.match)
            else:
                await self._storage.write(write.key, write.value, ttl=write.ttl, match=write.match)
        except ConflictError:
            return False
        return True


def _text(line: _Line) -> str:
    return _encoder.encode(line).decode()
