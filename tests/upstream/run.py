"""
Run a bot's program, with another server in place of Telegram's: ``python run.py PROGRAM URL``.

The program does not know: what it makes its bot with is given another default before it starts.
"""

from __future__ import annotations

import functools
import runpy
import sys
from pathlib import Path

program, url = sys.argv[1:]

if Path(program).parent.name == "aiogram":
    from aiogram.client.telegram import PRODUCTION, TelegramAPIServer

    PRODUCTION.__dict__.update(vars(TelegramAPIServer.from_base(url)))
else:
    from telegram.ext import ApplicationBuilder

    initialize = ApplicationBuilder.__init__

    @functools.wraps(initialize)
    def pointing_elsewhere(self: ApplicationBuilder) -> None:  # type: ignore[type-arg]
        initialize(self)
        self.base_url(f"{url}/bot")

    ApplicationBuilder.__init__ = pointing_elsewhere  # type: ignore[method-assign]

runpy.run_path(program, run_name="__main__")
