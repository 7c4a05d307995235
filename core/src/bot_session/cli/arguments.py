"""The command's words: what can be said, and what is said when it is wrong."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bot_session import __version__

from . import commands
from .terminal import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["parse"]

_ENVIRONMENT: Final = "BOT_SESSION_URL"
_HELP: Final = f"""\
URL says where the sessions are, as in Python: sqlite:bot.db, redis://localhost/0?prefix=pizza:
Without it, the environment variable {_ENVIRONMENT} is used; env:NAME uses another variable.
So no password needs to stand in the list of processes.
"""
_MINUS: Final = "\0-"
"""Stands for a minus that begins no option, until argparse, which would take it for one, is done."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Read the command line; what is to be run is in ``run``.

    Raises:
        SystemExit: It is wrong (2), or asks for help (0).
    """
    parser, subparsers = _parsers()
    words = _with_minuses_hidden(argv)
    # Each command's own parser, and not the main one, since only it takes options between a URL and a key.
    command = subparsers.get(words[0]) if words else None
    if command is None:
        return parser.parse_args(words or ["--help"])
    arguments = command.parse_intermixed_args(words[1:])
    if getattr(arguments, "url", "") is None:
        arguments.url = os.environ.get(_ENVIRONMENT)
        if arguments.url is None:
            command.error(f"which storage? Give its URL, or set {_ENVIRONMENT}")
    return arguments


def _with_minuses_hidden(argv: Sequence[str]) -> list[str]:
    """Hide the minuses of negative chat ids, and of all words after ``--``, which is left out."""
    end = argv.index("--") if "--" in argv else len(argv)
    words = [re.sub(r"^-(?=\d)", _MINUS, word) for word in argv[:end]]
    return words + [re.sub("^-", _MINUS, word) for word in argv[end + 1 :]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(without_secrets(message.replace(_MINUS, "-").replace(repr(_MINUS)[1:-1], "-")))


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="bot-session",
        description="Look after the sessions of bots.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bot-session {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(run: Any, name: str, *arguments: Any) -> None:
        description = inspect.getdoc(run) or ""
        command = subparsers.add_parser(
            name,
            help=description.partition("\n")[0].rstrip("."),
            description=description,
            epilog=_HELP if any(argument in arguments for argument in (_URL, _SOURCE)) else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for flags, options in arguments:
            command.add_argument(*flags, **options)
        command.set_defaults(run=run)
        if _JSON not in arguments:
            command.set_defaults(json=False)

    add(commands.keys, "keys", _URL, _PREFIX, _JSON)
    add(commands.count, "count", _URL, _PREFIX, _JSON)
    add(commands.show, "show", _URL, _KEY, _KEY_FILE, _JSON)
    add(commands.delete, "delete", _URL, _KEY, _JSON)
    add(commands.copy, "copy", _SOURCE, _TARGET, _PREFIX, _OVERWRITE, _JSON)
    add(commands.purge, "purge", _URL, _JSON)
    add(commands.check, "check", _URL, _JSON)
    add(commands.ddl, "ddl", _URL)
    add(commands.seal, "seal", _URL, _KEYS, _PREFIX, _COMPRESS, _ACCEPT_PLAIN, _JSON)
    add(commands.generate_key, "generate-key")
    add(commands.storages, "storages", _JSON)
    return parser, subparsers.choices


def _text(word: str) -> str:
    return word.replace(_MINUS, "-", 1)


def _url(word: str) -> str:
    text = _text(word)
    if not text.startswith("env:"):
        return text
    name = text.removeprefix("env:")
    if name not in os.environ:
        raise argparse.ArgumentTypeError(f"the environment variable {name} is not set")
    return os.environ[name]


_Argument = tuple[tuple[str, ...], dict[str, Any]]

_URL: Final[_Argument] = (("url",), {"metavar": "URL", "nargs": "?", "type": _url, "help": "where the sessions are"})
_SOURCE: Final[_Argument] = (("url",), {"metavar": "SOURCE", "type": _url, "help": "URL of where they are"})
_TARGET: Final[_Argument] = (("target",), {"metavar": "TARGET", "type": _url, "help": "URL of where to"})
_KEY: Final[_Argument] = (("key",), {"metavar": "KEY", "type": _text, "help": "a session's key in the storage"})
_PREFIX: Final[_Argument] = (
    ("--prefix",),
    {"metavar": "TEXT", "type": _text, "default": "", "help": "only keys that start with it"},
)
_JSON: Final[_Argument] = (("--json",), {"action": "store_true", "help": "write JSON, one object a line"})
_OVERWRITE: Final[_Argument] = (
    ("--overwrite",),
    {"action": "store_true", "help": "replace what the target has under the same key; otherwise that is kept"},
)
_KEY_FILE_HELP: Final = "file with the encryption keys, one a line: the current one, then older ones"
_KEY_FILE: Final[_Argument] = (("--key-file",), {"metavar": "FILE", "type": _text, "help": _KEY_FILE_HELP})
_KEYS: Final[_Argument] = (
    ("--key-file",),
    {"metavar": "FILE", "type": _text, "required": True, "help": _KEY_FILE_HELP},
)
_COMPRESS: Final[_Argument] = (("--compress",), {"action": "store_true", "help": "compress before encrypting"})
_ACCEPT_PLAIN: Final[_Argument] = (
    ("--accept-plain",),
    {"action": "store_true", "help": "encrypt also documents that are not encrypted yet"},
)
