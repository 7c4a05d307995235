"""What the command writes: results to the standard output, everything else to the standard error."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from bot_session.errors import BotSessionError
from bot_session.redaction import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OutputError", "Terminal", "end_output", "without_secrets"]

_COMMANDING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal, or what reads lines, would obey instead of showing; and those that have no UTF-8."""
_URL: Final = re.compile(r"[\w+.-]*://(?:.*@)?\S*", re.DOTALL)
"""A URL, as far as an at sign tells: a password may hold spaces, and hiding too much is better than too little."""
_BETWEEN_TOKENS: Final = str.maketrans("\t\n\r", "   ")
_NEWS_INTERVAL: Final = 0.2
_UNITS: Final = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


class OutputError(BotSessionError):
    """The standard output takes nothing."""


class Terminal:
    """
    The command's two outputs.

    Args:
        json: Whether results are JSON, one object a line, instead of text.
    """

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._progress_shown = False
        self._next_news = 0.0
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale says: that is what JSON is

    def tell(self, text: str, **fields: object) -> None:
        """Write a result: as a line of text, or as an object with these fields."""
        self._write(_shown(json.dumps(fields, ensure_ascii=False) if self._json else text))

    def tell_document(self, key: str, document: str, ttl: float | None) -> None:
        """Write a document: indented, or with its key and its remaining seconds in an object."""
        document = document.translate(_BETWEEN_TOKENS)
        if self._json:
            head = json.dumps({"key": key, "ttl": ttl}, ensure_ascii=False)[:-1]
            self._write(_shown(f'{head}, "value": {document}}}'))
            return
        self._write("\n".join(map(_shown, _indented(document).split("\n"))))
        if ttl is not None:
            self.remark(f"expires in {_in_words(ttl)}")

    def tell_statements(self, text: str) -> None:
        """Write something for another program, as it is."""
        self._write(text.rstrip("\n"))

    def remark(self, text: str) -> None:
        """Write what is worth knowing, but no result."""
        self.flush()
        _note(_shown(text) + "\n")

    def complain(self, message: str) -> None:
        """Write an error, on one line, without the secrets of URLs in it."""
        self._forget_progress()
        _note(_shown(f"bot-session: {' '.join(without_secrets(message).split())}") + "\n")

    def progress(self, done: int, what: str) -> None:
        """Say how far it is, if somebody looks."""
        if sys.stderr and sys.stderr.isatty() and monotonic() >= self._next_news:
            self._next_news = monotonic() + _NEWS_INTERVAL
            self._progress_shown = True
            _note(f"\r{done:,} {what} …\x1b[K")

    def flush(self) -> None:
        """
        Make sure that results are written.

        Raises:
            OutputError: They cannot be: the output is closed, or its disk is full.
            BrokenPipeError: Nobody reads them any more.
        """
        self._forget_progress()
        with _output() as output:
            output.flush()

    def _write(self, text: str) -> None:
        self._forget_progress()
        with _output() as output:
            output.write(text + "\n")

    def _forget_progress(self) -> None:
        if self._progress_shown:
            self._progress_shown = False
            _note("\r\x1b[K")


@contextmanager
def _output() -> Iterator[TextIO]:
    output: TextIO | None = sys.stdout  # None if it was closed before the process began
    if output is None:
        raise OutputError("the standard output is closed")
    try:
        yield output
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the standard output cannot be written: {error.strerror}") from error


def _note(text: str) -> None:
    with suppress(OSError):  # Where errors cannot be told, there is nobody to tell that.
        if sys.stderr:
            sys.stderr.write(text)
            sys.stderr.flush()


def end_output() -> None:
    """
    Write what is left for both outputs. What cannot be written is given up: whoever wrote it has been told.

    It would be written, and fail, once more at exit; Python's own documentation advises this.
    """
    for output in filter(None, (sys.stdout, sys.stderr)):
        try:
            output.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def without_secrets(message: str) -> str:
    """Return a message without the secrets of URLs in it."""
    return _URL.sub(lambda match: redact_url(match[0]), message)


def _indented(document: str) -> str:
    try:
        return msgspec.json.format(document, indent=2)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return document


def _in_words(seconds: float) -> str:
    """Say a time in its two largest units: ``2 days 3 hours``."""
    words = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            words.append(f"{count:.0f} {unit}{'s' if count > 1 else ''}")
    return " ".join(words[:2]) or "less than a second"


def _shown(text: str) -> str:
    """Spell out what would not be shown as it is. In JSON, only strings hold such characters, and remain the same."""
    return _COMMANDING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
