"""``python -m bot_session``: the command `bot-session`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
