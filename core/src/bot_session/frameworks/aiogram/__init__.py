"""
aiogram 3: ``SessionMiddleware(sessions).setup(dispatcher)``, and handlers that ask for ``session`` get it.

.. code-block:: python

    @router.message()
    async def count(message: Message, session: Session[Pizza]) -> None:
        session.data.count += 1

It works for polling and for webhooks. Besides, for bots that use aiogram's finite state machine: `SessionFSMStorage`
keeps it in any storage, `SessionEventIsolation` keeps the updates of a conversation in order, and
`import_redis_fsm` and `import_mongo_fsm` bring along what aiogram's own storages kept.
"""

from __future__ import annotations

try:
    import aiogram as _  # noqa: F401
except ImportError as error:
    raise ImportError("bot_session.frameworks.aiogram needs aiogram 3: pip install 'bot-session[aiogram]'") from error

from .fsm import SessionEventIsolation, SessionFSMStorage
from .importing import import_mongo_fsm, import_redis_fsm
from .middleware import SessionMiddleware, origin_of

__all__ = [
    "SessionEventIsolation",
    "SessionFSMStorage",
    "SessionMiddleware",
    "import_mongo_fsm",
    "import_redis_fsm",
    "origin_of",
]
