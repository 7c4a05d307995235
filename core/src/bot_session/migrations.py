"""
The envelope, and migrations.

Data that has a version rests in an envelope, ``{"v": version, "__d": data}``, the form that grammY's
``enhanceStorage`` writes. grammY's envelopes may also carry ``e``, the time in milliseconds at which they expire.
An envelope is recognised only if it is an object with ``__d``, with nothing besides ``v`` and ``e``, and those two are
numbers; data of a user's own that would look like one is written inside one.
"""

from __future__ import annotations

import inspect
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from .codec import split
from .errors import ConfigurationError, DecodeError, MigrationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["MARK", "Envelope", "Migration", "Migrations", "open_envelope", "seal_envelope"]

Migration: TypeAlias = "Callable[[Any], Any | Awaitable[Any]]"
"""Takes the data of the version before, as plain JSON values, and returns that of its own; None drops the session."""

MARK: Final = '"__d"'
"""No document without this text is an envelope: cheaper to look for than to decode."""


class Envelope(msgspec.Struct, frozen=True):
    """
    An opened envelope.

    Attributes:
        data: The document inside.
        version: Its version; None if it has none.
        expires: When it expires, in milliseconds since 1970; None if never.
    """

    data: msgspec.Raw
    version: Decimal | None
    expires: float | None

    @property
    def document(self) -> str:
        """The document inside, as text."""
        return bytes(self.data).decode()

    @property
    def expired(self) -> bool:
        """Whether its time is over. At the very millisecond it is still alive, as in grammY."""
        return self.expires is not None and self.expires < time.time() * 1000


_number = msgspec.json.Decoder(Decimal | None)
_time = msgspec.json.Decoder(float | None)


def open_envelope(document: str) -> Envelope | None:
    """Return the envelope that a document is; None if it is plain data."""
    if MARK not in document:
        return None
    try:
        fields = split(document)
        if "__d" not in fields or not fields.keys() <= {"v", "__d", "e"}:
            return None
        version, expires = bytes(fields.get("v", b"null")), bytes(fields.get("e", b"null"))
        # msgspec would take a version in quotes for a Decimal; to grammY that is data, not a version.
        if version.startswith(b'"'):
            return None
        return Envelope(fields["__d"], _number.decode(version), _time.decode(expires))
    except (DecodeError, msgspec.DecodeError):
        return None


def seal_envelope(document: str, version: Decimal | None = None) -> str:
    """Put a document into an envelope if it has a version, or would be taken for an envelope itself."""
    if version is not None:
        return f'{{"v":{version:f},"__d":{document}}}'
    if MARK in document and open_envelope(document) is not None:
        return f'{{"__d":{document}}}'
    return document


class Migrations:
    """
    Functions that bring old data up to date, by the version that each one leads to.

    Versions are numbers, exactly as written: 10, 10.1 and 11 are three. Data without a version is older than all of
    them. grammY stores 10.1 as 10 (it truncates), so its data may meet a migration between two whole numbers again.

    Args:
        steps: ``{version: function}``; functions may be async.

    Raises:
        ConfigurationError: There are none, or a version is no number or stands there twice.
    """

    def __init__(self, steps: Mapping[int | float | Decimal, Migration]) -> None:
        exact = [(_exact(version), step) for version, step in steps.items()]
        self._steps = sorted(exact, key=lambda item: item[0])
        if not self._steps:
            raise ConfigurationError("migrations={} has no migration: leave it out, or start with version 1")
        if len({version for version, _ in self._steps}) < len(self._steps):
            raise ConfigurationError("two migrations have the same version")
        self.latest: Final = self._steps[-1][0]

    async def apply(self, data: Any, version: Decimal | None) -> Any:
        """
        Run all migrations beyond ``version``, in order.

        Args:
            data: Plain JSON values.
            version: What they are at; None is before the first.

        Returns:
            The data at `latest`; None if a migration dropped it.

        Raises:
            MigrationError: The data is newer than the newest migration, or a migration raised.
        """
        if version is not None and version > self.latest:
            raise MigrationError(
                f"the stored data has version {version:f}, this code knows up to {self.latest:f}: it is left alone"
            )
        for target, step in self._steps:
            if version is None or target > version:
                try:
                    data = step(data)
                    if inspect.isawaitable(data):
                        data = await data
                except Exception as error:
                    raise MigrationError(f"the migration to version {target:f} failed: {error!r}") from error
                if data is None:
                    return None
        return data


def _exact(version: object) -> Decimal:
    if isinstance(version, (int, float, Decimal)) and not isinstance(version, bool):
        exact = Decimal(repr(version)) if isinstance(version, float) else Decimal(version)
        if exact.is_finite():
            return exact
    raise ConfigurationError(f"a migration's version is a number, not {version!r}")
