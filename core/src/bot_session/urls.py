"""Making a storage from a line of configuration: a URL, or the table of a settings file that holds one."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, NamedTuple, NoReturn
from urllib.parse import unquote

from .errors import ConfigurationError
from .redaction import hide_secrets, looks_secret, redact_url
from .storage import Storage
from .wrappers.prefixed import PrefixedStorage

__all__ = ["find_storage", "open_storage", "options_of", "register_storage", "storage_schemes"]

_GROUP: Final = "bot_session.storages"

_PACKAGES: Final = {
    "memory": "bot-session",
    "file": "bot-session-storage-file",
    "sqlite": "bot-session-storage-sqlite",
    "redis": "bot-session-storage-redis",
    "rediss": "bot-session-storage-redis",
    "valkey": "bot-session-storage-redis",
    "valkeys": "bot-session-storage-redis",
    "redis+unix": "bot-session-storage-redis",
    "redis+cluster": "bot-session-storage-redis",
    "rediss+cluster": "bot-session-storage-redis",
    "redis+sentinel": "bot-session-storage-redis",
    "rediss+sentinel": "bot-session-storage-redis",
    "mongodb": "bot-session-storage-mongo",
    "mongodb+srv": "bot-session-storage-mongo",
    "postgresql": "bot-session-storage-postgres",
    "postgres": "bot-session-storage-postgres",
    "supabase": "bot-session-storage-supabase",
}
"""What to install for a scheme that is not there. Only errors read it: what is there says so by its entry point."""

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,100}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS: Final = {
    "true": True, "1": True, "yes": True, "on": True,
    "false": False, "0": False, "no": False, "off": False,
}  # fmt: skip

_registered: dict[str, type[Storage]] = {}


def open_storage(url: str | Mapping[str, Any] | Storage, /, **options: Any) -> Storage:
    """
    Make the storage that a URL describes. Nothing connects yet: it opens at first use, or by `Storage.open`.

    Example:
        >>> open_storage("memory:")
        <MemoryStorage>
        >>> open_storage({"url": "memory:", "prefix": "pizza:"})
        <PrefixedStorage 'pizza:' of <MemoryStorage>>

    Args:
        url: The URL; or a mapping with the URL under ``"url"`` and options beside it; or a storage, which is returned
            as it is, so that a setting may be any of them.
        options: The options of the storage, as they may also stand in the URL's query, percent-encoded there (a plus
            is a plus). Text is read as it would be there; other values must have the option's type. ``prefix`` is
            understood by all: it wraps the storage in a `PrefixedStorage`.

    Raises:
        ConfigurationError: No such storage is installed, or the URL or an option is wrong.
    """
    if isinstance(url, Storage):
        return _open_ready(url, options)
    if isinstance(url, Mapping):
        return _open_mapping(url, options)
    if not isinstance(url, str):
        raise ConfigurationError(f"a storage is described by a URL or by a mapping with one, not by {_kind(url)}")
    scheme = _scheme_of(url)
    cls = find_storage(scheme)
    known = _Options.of(cls)
    address, found = _take_options(scheme + url[len(scheme) :], known)
    for name in options:
        if name in found:
            raise ConfigurationError(f"the option {name!r} is given twice: in the URL and beside it")
        if name not in known.types:
            known.refuse(name, "options of the driver go into the URL's query" if cls.driver_query else "")
    typed = {name: _convert(name, value, known.types[name]) for name, value in {**found, **options}.items()}
    prefix = "" if known.own_prefix else typed.pop("prefix", "")
    storage = _make(cls, scheme, address, typed)
    return PrefixedStorage(storage, prefix) if prefix else storage


def register_storage(scheme: str, cls: type[Storage]) -> None:
    """
    Make `open_storage` know a scheme in this process: for tests, and for applications with a storage of their own.

    It goes before what is installed, and a later one for the same scheme replaces it. Packages declare an entry point
    in the group ``bot_session.storages`` instead.

    Raises:
        ConfigurationError: The scheme is not one, or the class is no `Storage`.
    """
    if not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(f"{scheme!r} cannot be the scheme of a URL: letters, digits, '+', '.' and '-'")
    _registered[scheme.lower()] = _checked(cls, f"what is registered for {scheme!r}")


def _open_ready(storage: Storage, options: Mapping[str, Any]) -> Storage:
    prefix = _convert("prefix", options.get("prefix", ""), str)
    others = sorted(options.keys() - {"prefix"})
    if others:
        raise ConfigurationError(f"{storage!r} is made already: {', '.join(others)} can no longer be set")
    return PrefixedStorage(storage, prefix) if prefix else storage


def _open_mapping(settings: Mapping[str, Any], options: Mapping[str, Any]) -> Storage:
    url = settings.get("url")
    if not isinstance(url, str):
        raise ConfigurationError(f"the storage's settings need its URL under 'url'; there is {_kind(url)}")
    beside = {name: value for name, value in settings.items() if name != "url"}
    for name in beside:
        if not isinstance(name, str):
            raise ConfigurationError(f"the name of an option is text, not {_kind(name)}")
        if name in options:
            raise ConfigurationError(f"the option {name!r} is given twice: in the mapping and beside it")
    return open_storage(url, **beside, **options)


# ---------------------------------------------------------------------- finding the class


def _scheme_of(url: str) -> str:
    """Return the scheme in lower case, having refused what different programs would read differently."""
    scheme, colon, rest = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError("a storage's URL starts with a scheme, as in sqlite:bot.db or redis://localhost")
    address, _, query = rest.partition("?")
    authority, _, path = address[2:].partition("/") if address.startswith("//") else ("", "", "")
    # Drivers take a raw "/" or "?" for the end of the password, and print what they then think is the port.
    if "@" in query or (authority and "@" in path):
        raise ConfigurationError(
            f"{redact_url(url)} is ambiguous: write %40 for every '@' but the one before the host, and %2F, %3F and "
            "%23 for '/', '?' and '#' in a password"
        )
    if "#" in rest:
        raise ConfigurationError(f"a storage's URL has no fragment: write %23 for '#' in {redact_url(url)}")
    return scheme.lower()


def storage_schemes() -> list[str]:
    """Return the schemes of URLs for which there is a storage here: registered or installed."""
    return sorted({*_registered, *(entry.name for entry in entry_points(group=_GROUP))})


def options_of(cls: type[Storage]) -> Mapping[str, Any]:
    """Return the options that the URL of a storage may have, with their types."""
    return _Options.of(cls).types


def find_storage(scheme: str) -> type[Storage]:
    """
    Return the storage of a URL's scheme.

    Raises:
        ConfigurationError: There is none, or several, or it cannot be imported.
    """
    if scheme in _registered:
        return _registered[scheme]
    # One distribution may be seen twice, say as a checkout and as a wheel: that is no quarrel.
    found = {entry.value: entry for entry in entry_points(group=_GROUP, name=scheme)}
    if len(found) > 1:
        claims = " and ".join(sorted(f"{_distribution(entry)} ({entry.value})" for entry in found.values()))
        raise ConfigurationError(f"several packages claim the scheme {scheme!r}: {claims}; uninstall one of them")
    if not found:
        _refuse_scheme(scheme)
    return _load(scheme, *found.values())


def _load(scheme: str, entry: EntryPoint) -> type[Storage]:
    package = _distribution(entry)
    try:
        cls = entry.load()
    except ImportError as error:
        raise _not_importable(scheme, package, error) from error
    except Exception as error:
        raise ConfigurationError(
            f"{package}, which has the storage for {scheme!r}, is broken: {type(error).__name__}: {error}"
        ) from error
    return _checked(cls, f"{entry.value} of {package}")


def _checked(cls: object, what: str) -> type[Storage]:
    if not (isinstance(cls, type) and issubclass(cls, Storage)):
        raise ConfigurationError(f"{what} is no Storage: {cls!r}")
    return cls


def _not_importable(scheme: str, package: str, error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"the storage for {scheme!r} cannot be imported: {error}. Install what it needs: pip install {package}"
    )


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "a package without a name"


def _refuse_scheme(scheme: str) -> NoReturn:
    if scheme in _PACKAGES:
        raise ConfigurationError(f"no storage for {scheme!r} is installed: pip install {_PACKAGES[scheme]}")
    there = storage_schemes()
    hint = _did_you_mean(scheme, [*there, *_PACKAGES])
    raise ConfigurationError(f"no storage for {scheme!r}{hint} Installed: {', '.join(there) or 'none'}")


# ---------------------------------------------------------------------- options


class _Options(NamedTuple):
    """The options that a class understands, by the signatures of its ``from_url`` and its constructor."""

    cls: type[Storage]
    types: Mapping[str, Any]
    own_prefix: bool

    @classmethod
    def of(cls, storage: type[Storage]) -> _Options:
        try:
            hints, the_rest_too = _keywords_of(storage.from_url)
            if the_rest_too:
                for name, hint in _keywords_of(storage.__init__)[0].items():
                    if _may_be_option(hint):
                        hints.setdefault(name, hint)
        except Exception as error:
            raise ConfigurationError(f"the options of {storage.__name__} cannot be read: {error}") from error
        return _Options(storage, {"prefix": str, **hints}, "prefix" in hints)

    def refuse(self, name: str, otherwise: str = "") -> NoReturn:
        hint = _did_you_mean(name, list(self.types))
        options = f"Its options: {', '.join(sorted(self.types))}" + (f"; {otherwise}" if otherwise else "")
        raise ConfigurationError(f"{self.cls.__name__} has no option {name!r}{hint} {options}")


def _keywords_of(function: Any) -> tuple[dict[str, Any], bool]:
    """Return the types of a function's keyword-only parameters, and whether it takes others besides."""
    parameters = inspect.signature(function).parameters.values()

    def carrier() -> None: ...

    # Only these: other annotations may be known to type checkers alone.
    carrier.__annotations__ = {item.name: item.annotation for item in parameters if item.kind is item.KEYWORD_ONLY}
    hints = typing.get_type_hints(carrier, globalns=function.__globals__)
    return hints, any(item.kind is item.VAR_KEYWORD for item in parameters)


def _may_be_option(hint: Any) -> bool:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
    return all(
        (isinstance(kind, type) and kind in {types.NoneType, *_READERS}) or typing.get_origin(kind) is Literal
        for kind in kinds
    )


def _take_options(url: str, known: _Options) -> tuple[str, dict[str, str]]:
    """Take our options out of the query; what remains belongs to the driver, byte for byte, or is an error."""
    address, _, query = url.partition("?")
    found: dict[str, str] = {}
    remaining: list[str] = []
    for item in query.split("&") if query else ():
        raw_name, equals, raw_value = item.partition("=")
        name = _decode(raw_name, "the name of an option")
        if name not in known.types:
            if not known.cls.driver_query and item:
                known.refuse(name)
            remaining.append(item)
            continue
        if name in found:
            raise ConfigurationError(f"the option {name!r} is given twice in the URL")
        if not equals:
            raise ConfigurationError(f"the option {name!r} needs a value: write {name}=…")
        found[name] = _decode(raw_value, f"the option {name!r}")
    rest = "&".join(remaining) if known.cls.driver_query else ""
    return (f"{address}?{rest}" if rest else address), found


def _decode(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} is percent-encoded, but not as UTF-8") from None


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Read text as the option's type; of anything else make sure that it has that type."""
    wanted = [hint]
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        wanted = [part for part in typing.get_args(hint) if part is not types.NoneType]
        if value is None and len(wanted) < len(typing.get_args(hint)):
            return None
    if len(wanted) != 1:
        raise ConfigurationError(f"the option {name!r} is declared as {hint}: it must be of one type")
    kind = wanted[0]
    converted, demand = _as_choice(value, kind) if typing.get_origin(kind) is Literal else _as_type(value, kind)
    if converted is None:
        shown = "" if looks_secret(name) else f", not {value!r}"
        raise ConfigurationError(f"the option {name!r} must be {demand}{shown}")
    return converted


def _as_choice(value: Any, kind: Any) -> tuple[Any, str]:
    choices = typing.get_args(kind)
    chosen = [choice for choice in choices if value == str(choice) or (value == choice and type(value) is type(choice))]
    return (chosen[0] if chosen else None), "one of " + ", ".join(map(str, choices))


def _as_type(value: Any, kind: Any) -> tuple[Any, str]:
    """Return the value as ``kind``, or None if it is none; and what it should be."""
    if kind not in _READERS:
        return None, f"of a type that options can have, which {kind} is not"
    demand, read = _READERS[kind]
    if isinstance(value, str):
        return read(value), demand
    if kind is float and type(value) in {int, float}:
        return _read_float(str(value)), demand
    return (value if type(value) is kind else None), demand


def _read_bool(text: str) -> bool | None:
    return _BOOLEANS.get(text.lower())


def _read_int(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _read_float(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


_READERS: Final[dict[Any, tuple[str, Callable[[str], Any]]]] = {
    str: ("text", str),
    bool: ("true or false", _read_bool),
    int: ("a whole number", _read_int),
    float: ("a number", _read_float),
}


def _did_you_mean(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f": did you mean {close[0]!r}?" if close else "."


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _make(cls: type[Storage], scheme: str, url: str, options: dict[str, Any]) -> Storage:
    try:
        return cls.from_url(url, **options)
    except ConfigurationError as error:
        message = hide_secrets(str(error), url)
        if message == str(error):
            raise
        raise ConfigurationError(message) from None
    except ImportError as error:
        raise _not_importable(scheme, _PACKAGES.get(scheme, cls.__module__.partition(".")[0]), error) from error
    except Exception as error:  # noqa: BLE001  # whatever it is, it comes out as ours
        # The error may quote any part of the URL, so it is shown only if there is nothing to hide.
        shown = redact_url(url)
        raise ConfigurationError(f"{cls.__name__} cannot be made from {shown}: {type(error).__name__}") from (
            error if shown == url else None
        )
