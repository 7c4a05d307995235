"""
The command ``bot-session``: what operators do with sessions, without writing Python.

Exit codes: 0 it is done; 1 it failed; 2 the command, the URL or another setting is wrong; 130 and 141 it was interrupted,
or nobody reads its output any more.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from bot_session.errors import BotSessionError, ConfigurationError

from .arguments import parse
from .terminal import Terminal, end_output

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

__all__ = ["main"]

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130  # as if killed by SIGINT
UNREAD: Final = 141  # as if killed by SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command with arguments, by default those of the process, and return its exit code.

    Raises:
        SystemExit: The arguments are wrong (2), or ask for help or the version (0).
    """
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        return _run(arguments, Terminal(json=arguments.json))
    finally:
        end_output()


def _run(arguments: Namespace, terminal: Terminal) -> int:
    try:
        terminal.flush()  # Where there is no output, nothing is begun.
        status: int = asyncio.run(arguments.run(arguments, terminal))
        terminal.flush()
    except ConfigurationError as error:
        terminal.complain(str(error))
        return MISUSED
    except BotSessionError as error:
        terminal.complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        terminal.complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return UNREAD
    return status
