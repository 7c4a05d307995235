"""
python-telegram-bot: ``install(builder, sessions)``, and handlers find the session at ``context.session``.

.. code-block:: python

    Context = SessionContext[Session[Pizza]]


    async def count(update: Update, context: Context) -> None:
        context.session.data.count += 1


    application = install(Application.builder().token(token), sessions).build()
    application.add_handler(MessageHandler(filters.TEXT, count))

It works for every way in which updates come: polling, webhooks, and `Application.process_update` called directly.
"""

from __future__ import annotations

try:
    import telegram.ext as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bot_session.frameworks.telegram needs python-telegram-bot: pip install 'bot-session[telegram]'"
    ) from error

from .application import SessionApplication, SessionContext, install, origin_of
from .persistence import BotSessionPersistence
from .persistent import PersistentApplication, persist
from .pickles import import_pickle

__all__ = [
    "BotSessionPersistence",
    "PersistentApplication",
    "SessionApplication",
    "SessionContext",
    "import_pickle",
    "install",
    "origin_of",
    "persist",
]
