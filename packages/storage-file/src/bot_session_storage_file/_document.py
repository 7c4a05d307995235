"""
What is in a file: the document as it is, or with a TTL grammY's ``{"__d": document, "e": epoch in ms}``.

A document that is an envelope itself, ``{"v": …, "__d": …}``, gets its ``e`` inside, as grammY writes it. Nothing is
written that would read as something else: a document that looks like an envelope is put inside one that never ends.
Documents are cut out and put in as text, never decoded and encoded again, so they come back to the letter.

grammY indents with tabs. Such a document is read without them, and a file that has them keeps them.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Document", "parse", "render", "require_json"]

_NEVER: Final = 8_640_000_000_000_000  # the last moment that JavaScript's Date can hold
_TABBED: Final = "\n\t"  # text inside JSON has no line ends of its own
_INDENT: Final = re.compile(r"\n( +)")
# As JSON.stringify writes it, and so strict that what stands inside keeps its spaces.
_START: Final = r'\{(?:"v":(?P<version>-?[\d.eE+-]+),)?"__d":(?P<inner>.*)'
_ENVELOPE: Final = re.compile(_START + r',"e":(?P<expires>-?[\d.eE+-]+)\}', re.DOTALL)
_VERSIONED: Final = re.compile(_START + r"\}", re.DOTALL)


class _Edited(msgspec.Struct, forbid_unknown_fields=True):
    inner: msgspec.Raw = msgspec.field(name="__d")
    expires: float = msgspec.field(name="e")
    version: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="v", default=msgspec.UNSET)


class Document(NamedTuple):
    """A document as it rests in a file: its text, when it expires in ms since 1970, and whether tabs indent it."""

    value: str
    expires: float | None
    tabs: bool = False


def parse(data: bytes) -> Document:
    """
    Read a file's content.

    Raises:
        ValueError: It is empty, no UTF-8 or no JSON.
    """
    text, tabs = data.decode(), False
    require_json(text)
    if _TABBED in text and (compact := _without_tabs(text)) is not None:
        text, tabs = compact, True
    value, expires = _unwrap(text)
    return Document(value, expires, tabs)


def render(value: str, expires: int | None, *, tabs: bool) -> bytes:
    """Return a file's content, indented with tabs if asked for, from which `parse` makes the same document."""
    if expires is None and not tabs and _TABBED not in value and '"__d"' not in value:
        return value.encode()  # as is the rule
    for form in _forms(value, expires):
        for text in (_with_tabs(form), form) if tabs else (form,):
            data = text.encode()
            if parse(data)[:2] == (value, expires):
                return data
    raise AssertionError("an envelope reads back as what it holds")


def require_json(text: str) -> None:
    """Raise ValueError if the text is no JSON."""
    with suppress(RecursionError):  # nested deeper than can be followed here: whoever decodes it says so
        try:
            msgspec.json.decode(text, type=msgspec.Raw)
        except msgspec.DecodeError:
            json.loads(text, parse_constant=_refuse)  # it takes halves of a surrogate pair, which JavaScript writes


def _forms(value: str, expires: int | None) -> Iterator[str]:
    """Yield what a file may hold for a document, the more readable first."""
    if expires is None:
        yield value
    elif '"__d"' in value and (own := _VERSIONED.fullmatch(value)) is not None and own["version"]:
        yield f'{{"v":{own["version"]},"__d":{own["inner"]},"e":{expires}}}'
    yield f'{{"__d":{value},"e":{_NEVER if expires is None else expires}}}'


def _unwrap(text: str) -> tuple[str, float | None]:
    if '"__d"' not in text or '"e"' not in text:
        return text, None
    parts = _parts(text) or _parts_edited(text)
    if parts is None:
        return text, None
    version, inner, moment = parts
    value = inner if version is None else f'{{"v":{version},"__d":{inner}}}'
    return value, None if moment >= _NEVER else moment


def _parts(text: str) -> tuple[str | None, str, float] | None:
    """Return version, document and expiry of an envelope; None of anything else."""
    envelope = _ENVELOPE.fullmatch(text)
    if envelope is None:
        return None
    try:
        require_json(envelope["inner"])  # otherwise the object has further fields, and is no envelope
    except ValueError:
        return None
    return envelope["version"], envelope["inner"], float(envelope["expires"])


def _parts_edited(text: str) -> tuple[str | None, str, float] | None:
    """Return `_parts` of an envelope that somebody has indented, or put in another order."""
    try:
        envelope = msgspec.json.decode(text, type=_Edited)
        version = None
        if envelope.version is not msgspec.UNSET:
            version = bytes(envelope.version).decode()
            msgspec.json.decode(version, type=float)
    except (msgspec.DecodeError, RecursionError):
        return None
    return version, bytes(envelope.inner).decode(), envelope.expires


def _without_tabs(text: str) -> str | None:
    """Return the compact form of what JavaScript has indented with tabs, None of anything else."""
    try:
        compact = msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return None
    return compact if _with_tabs(compact) == text else None


def _with_tabs(compact: str) -> str:
    try:
        return _INDENT.sub(lambda spaces: "\n" + "\t" * len(spaces[1]), msgspec.json.format(compact, indent=1))
    except (msgspec.DecodeError, RecursionError):
        return compact


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
