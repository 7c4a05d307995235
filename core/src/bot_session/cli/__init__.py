"""
The command ``bot-session``: what operators do with sessions, without writing Python.

Exit codes: 0 it is done; 1 it failed; 2 the command, the URL or another setting is wrong; 130 and 141 it was interrupted,
or nobody reads its output any more.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final

from bot_session.errors import BotSessionError, ConfigurationError

from .arguments import parse
from .terminal import Terminal

if TYPE_CHECKING:
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
    arguments = parse(sys.argv[1:] if argv is None else argv)
    terminal = Terminal(json=arguments.json)
    try:
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
        # What is left would be written, and fail, once more at exit: Python's own documentation advises this.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    return status
