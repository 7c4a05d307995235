"""
Updates as Telegram sends them, as plain dicts; `FakeBotAPI.feed` gives them their ``update_id``.

Every builder takes further fields by keyword: ``message("hi", message_thread_id=3, is_topic_message=True)``.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Final

__all__ = [
    "ADA",
    "BOB",
    "business_connection",
    "business_message",
    "callback_query",
    "channel",
    "channel_post",
    "edited_message",
    "group",
    "inline_query",
    "member_change",
    "message",
    "migrate_from",
    "migrate_to",
    "person",
    "poll",
    "pre_checkout_query",
    "private",
    "reaction",
    "supergroup",
]

Json = dict[str, Any]

_message_ids = itertools.count(1)


def person(id: int, name: str, **fields: Any) -> Json:  # noqa: A002 - Telegram's name for it
    """Return a user who is no bot."""
    return {"id": id, "is_bot": False, "first_name": name, "language_code": "en", **fields}


ADA: Final = person(7, "Ada")
BOB: Final = person(8, "Bob")


def private(user: Json = ADA) -> Json:
    """Return the private chat of a user: its id is the user's."""
    return {"id": user["id"], "type": "private", "first_name": user["first_name"]}


def group(id: int = -100, title: str = "Lunch") -> Json:  # noqa: A002
    """Return a group, which may become a supergroup."""
    return {"id": id, "type": "group", "title": title, "all_members_are_administrators": True}


def supergroup(id: int = -1001000000000, title: str = "Lunch", **fields: Any) -> Json:  # noqa: A002
    """Return a supergroup; ``is_forum=True`` makes it a forum."""
    return {"id": id, "type": "supergroup", "title": title, **fields}


def channel(id: int = -1002000000000, title: str = "News") -> Json:  # noqa: A002
    """Return a channel."""
    return {"id": id, "type": "channel", "title": title}


def _message(text: str | None, chat: Json | None, user: Json | None, fields: Json) -> Json:
    built: Json = {"message_id": next(_message_ids), "date": int(time.time())}
    if user is not None:
        built["from"] = user
    built["chat"] = chat or private(user or ADA)
    if text is not None:
        built["text"] = text
        if text.startswith("/"):
            built["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
    return {**built, **fields}


def message(text: str | None = "hi", *, chat: Json | None = None, user: Json = ADA, **fields: Any) -> Json:
    """Return a message: in the user's private chat if no other is given. A command gets its entity."""
    return {"message": _message(text, chat, user, fields)}


def edited_message(text: str = "hi", *, chat: Json | None = None, user: Json = ADA, **fields: Any) -> Json:
    """Return a message that was edited."""
    return {"edited_message": _message(text, chat, user, {"edit_date": int(time.time()), **fields})}


def channel_post(text: str = "hi", *, chat: Json | None = None, **fields: Any) -> Json:
    """Return a channel's post, which has no user."""
    chat = chat or channel()
    return {"channel_post": _message(text, chat, None, {"sender_chat": chat, **fields})}


def business_connection(id: str = "business", *, user: Json = ADA, **fields: Any) -> Json:  # noqa: A002
    """Return that a user has connected the bot to a business account."""
    built = {"id": id, "user": user, "user_chat_id": user["id"], "date": int(time.time()), "is_enabled": True}
    return {"business_connection": {**built, "can_reply": True, **fields}}


def business_message(
    text: str = "hi", *, connection: str = "business", chat: Json | None = None, user: Json = BOB, **fields: Any
) -> Json:
    """Return a message that a customer sent to a business account."""
    return {"business_message": _message(text, chat, user, {"business_connection_id": connection, **fields})}


def callback_query(data: str = "press", *, chat: Json | None = None, user: Json = ADA, **fields: Any) -> Json:
    """Return the press of a button under a message; ``inline_message_id=`` makes that message one without a chat."""
    built: Json = {"id": str(next(_message_ids)), "from": user, "chat_instance": "1", "data": data}
    if "inline_message_id" not in fields:
        built["message"] = _message("Choose", chat or private(user), None, {})
    return {"callback_query": {**built, **fields}}


def inline_query(query: str = "", *, user: Json = ADA, **fields: Any) -> Json:
    """Return an inline query, which belongs to no chat."""
    return {"inline_query": {"id": str(next(_message_ids)), "from": user, "query": query, "offset": "", **fields}}


def pre_checkout_query(payload: str = "order", *, user: Json = ADA, **fields: Any) -> Json:
    """Return the question before a payment, which belongs to no chat."""
    built = {"id": str(next(_message_ids)), "from": user, "currency": "XTR", "total_amount": 1}
    return {"pre_checkout_query": {**built, "invoice_payload": payload, **fields}}


def reaction(emoji: str = "👍", *, chat: Json | None = None, user: Json = ADA, **fields: Any) -> Json:
    """Return a reaction to a message. Only sent to bots that ask for it in ``allowed_updates``."""
    built = {"chat": chat or private(user), "message_id": 1, "user": user, "date": int(time.time())}
    new = [{"type": "emoji", "emoji": emoji}]
    return {"message_reaction": {**built, "old_reaction": [], "new_reaction": new, **fields}}


def member_change(chat: Json, *, user: Json = ADA, **fields: Any) -> Json:
    """Return that a user has added the bot to a chat."""
    bot = {"id": 42, "is_bot": True, "first_name": "Bot"}
    states: Json = {f"{when}_chat_member": {"status": status, "user": bot} for when, status in _JOINED}
    return {"my_chat_member": {"chat": chat, "from": user, "date": int(time.time()), **states, **fields}}


_JOINED: Final = (("old", "left"), ("new", "member"))


def poll(question: str = "Pizza?", **fields: Any) -> Json:
    """Return the state of a poll, which tells neither chat nor user."""
    options = [{"persistent_id": str(i), "text": text, "voter_count": 0} for i, text in enumerate(["yes", "no"])]
    flags = dict.fromkeys(_POLL_FLAGS, False)
    built: Json = {"id": str(next(_message_ids)), "question": question, "options": options, "total_voter_count": 0}
    return {"poll": {**built, **flags, "type": "regular", **fields}}


_POLL_FLAGS: Final = (
    "is_closed", "is_anonymous", "allows_multiple_answers", "allows_revoting", "members_only",
)  # fmt: skip


def migrate_to(new: int, *, chat: Json | None = None, user: Json = ADA) -> Json:
    """Return what the old group hears when it becomes a supergroup."""
    return {"message": _message(None, chat or group(), user, {"migrate_to_chat_id": new})}


def migrate_from(old: int, *, chat: Json | None = None, user: Json = ADA) -> Json:
    """Return what the new supergroup hears when it was a group before."""
    return {"message": _message(None, chat or supergroup(), user, {"migrate_from_chat_id": old})}
