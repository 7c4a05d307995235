"""The server: what it knows of the bot, how it hands out updates, what it answers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from bot_session.testing.listener import Listener

from .updates import message as message_update
from .wire import MAX_HEAD, WireError, fields_of, post, read_message, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from .wire import HttpMessage

__all__ = ["ApiError", "Call", "Delivery", "FakeBotAPI"]

T = TypeVar("T")
Json = dict[str, Any]

NOT_BY_DEFAULT: Final = frozenset({"chat_member", "message_reaction", "message_reaction_count"})
"""Updates that Telegram sends only to bots that name them in ``allowed_updates``."""

SETTING_UP: Final = ("get", "setMy", "deleteMy")
"""How methods begin that only ask, or describe the bot."""

RETRY_DELAYS: Final = (0.01, 0.05, 0.2, 1.0)
"""Seconds before a webhook that failed is called again; the last one from then on."""


class ApiError(Exception):
    """
    What the Bot API answers in place of a result: put one into `FakeBotAPI.answers`, or raise it there.

    Args:
        code: As HTTP's: 400, 403, 429.
        description: The text.
        parameters: For instance ``retry_after=1`` or ``migrate_to_chat_id=-1001``.
    """

    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description
        self.parameters = parameters


@dataclass(frozen=True, slots=True)
class Call:
    """
    A method that the bot called.

    Attributes:
        method: Its name, as in Telegram's documentation.
        fields: What it was called with; structures as structures, however they travelled.
        files: The files among them.
    """

    method: str
    fields: Json
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def chat_id(self) -> int | str | None:
        """The chat, if it is about one."""
        return self.fields.get("chat_id")

    @property
    def text(self) -> str | None:
        """The text or caption, if it has one."""
        return self.fields.get("text", self.fields.get("caption"))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to bring an update to a webhook; ``status`` is None if there was no answer."""

    update_id: int
    url: str
    status: int | None


@dataclass(slots=True)
class _Webhook:
    urls: tuple[str, ...]
    secret_token: str | None = None
    max_connections: int = 40
    last_error: tuple[int, str] | None = None
    turns: Iterator[str] = field(init=False)
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.turns = itertools.cycle(self.urls)
        self.slots = asyncio.Semaphore(self.max_connections)


class FakeBotAPI:
    """
    A Bot API server on this machine, for one bot: any framework talks to it as it talks to Telegram.

    It hands out the updates that a test feeds, by long polling or to a webhook, and keeps what the bot calls. To a
    webhook the updates of one chat, or of one user where there is no chat, go one after the other, each until it was
    answered with 2xx; different chats go side by side.

    >>> import asyncio
    >>> from bot_session.testing.botapi import FakeBotAPI, message
    >>> async def bot(api):
    ...     '''Any bot, made with any framework, that is pointed to api.url; here one in two lines.'''
    ...     [update] = await api.call("getUpdates", timeout=10)
    ...     await api.call("sendMessage", chat_id=update["message"]["chat"]["id"], text="hello")
    >>> async def test():
    ...     async with FakeBotAPI() as api:
    ...         await api.feed(message("hi"))
    ...         await bot(api)
    ...         [call] = await api.answered(1)
    ...         return call.method, call.chat_id, call.text
    >>> asyncio.run(test())
    ('sendMessage', 7, 'hello')

    Args:
        token: The bot's. Another one is answered with 401.
        patience: Seconds that `answered`, `delivered` and `ask` wait at most.

    Attributes:
        url: ``http://127.0.0.1:port``. For aiogram ``AiohttpSession(api=TelegramAPIServer.from_base(api.url))``, for
            python-telegram-bot ``.base_url(api.url + "/bot")``, for pyTelegramBotAPI
            ``asyncio_helper.API_URL = api.url + "/bot{0}/{1}"``.
        sent: The calls of the bot, in order, without those that only ask or set up.
        answers: What to answer to a method, in place of something plausible: a result, an `ApiError`, or a function
            that takes the call's fields and returns or raises one.
        deliveries: Every attempt to bring an update to a webhook.
        dropped: Updates of types that the bot does not want to get, by its ``allowed_updates``.
    """

    def __init__(self, token: str = "42:TEST", *, patience: float = 10.0) -> None:  # noqa: S107 - not a secret
        self.token = token
        self.patience = patience
        self.url = ""
        self.sent: list[Call] = []
        self.answers: dict[str, Any] = {}
        self.deliveries: list[Delivery] = []
        self.dropped: list[Json] = []
        self.me: Json = {
            "id": int(token.partition(":")[0]),
            "is_bot": True,
            "first_name": "Bot",
            "username": "test_bot",
            **dict.fromkeys(("can_join_groups", "can_connect_to_business", "supports_inline_queries"), True),
            **dict.fromkeys(("can_read_all_group_messages", "has_main_web_app"), False),
        }
        self._listener = Listener(self._serve, limit=MAX_HEAD)
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._waiting: list[Json] = []
        self._chats: dict[int, Json] = {}
        self._allowed: frozenset[str] | None = None
        self._update_ids = itertools.count(1)
        self._message_ids = itertools.count(1001)
        self._polls = 0
        self._webhook: _Webhook | None = None
        self._pumping: set[object] = set()

    async def __aenter__(self) -> Self:
        await self._listener.start()
        self.url = f"http://127.0.0.1:{self._listener.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ for tests

    async def feed(self, *updates: Mapping[str, Any]) -> list[int]:
        """Let these updates happen, now and in this order; returns their ``update_id``s."""
        numbered: list[Json] = [{"update_id": next(self._update_ids), **update} for update in updates]
        for update in numbered:
            chat = _chat_of(update)
            if chat is not None:
                self._chats[chat["id"]] = chat
        self._waiting += numbered
        self._tell()
        return [update["update_id"] for update in numbered]

    async def ask(self, text: str, **fields: Any) -> str | None:
        """
        Send a message, and return the text that comes back into its chat.

        Args:
            text: What it says.
            fields: The other arguments of the builder `message`: ``chat``, ``user``.

        Returns:
            The text or caption of the bot's first call about that chat; None if that has none.

        Raises:
            AssertionError: The bot sent nothing there for `patience` seconds.
        """
        update = message_update(text, **fields)
        chat, before = update["message"]["chat"]["id"], len(self.sent)
        await self.feed(update)
        call = await self._until(
            lambda: next((call for call in self.sent[before:] if call.chat_id == chat), None),
            f"an answer to {text!r} in chat {chat}",
        )
        return call.text

    async def answered(self, n: int = 1) -> list[Call]:
        """
        Wait until the bot has sent something ``n`` times since it began, and return all that it has sent.

        Raises:
            AssertionError: It has not for `patience` seconds.
        """
        await self._until(lambda: len(self.sent) >= n or None, f"{n} calls")
        return list(self.sent)

    async def delivered(self) -> None:
        """
        Wait until the bot has taken every update: asked for the next one, or answered its webhook's call.

        Raises:
            AssertionError: It has not for `patience` seconds.
        """
        await self._until(lambda: not self._waiting or None, "the bot to take all updates")

    def deliver_to(self, *urls: str, secret_token: str | None = None, max_connections: int = 40) -> None:
        """
        Set a webhook, as ``setWebhook`` does. Several URLs stand for a load balancer, which takes them in turn.

        Without a URL, the bot may poll again.
        """
        self._webhook = _Webhook(urls, secret_token, max_connections=max_connections) if urls else None
        self._polls += 1
        self._tell()

    async def call(self, method: str, **fields: Any) -> Any:
        """
        Call a method as the bot does, over HTTP.

        Raises:
            ApiError: The answer is an error.
        """
        answer = fields_of(await post(f"{self.url}/bot{self.token}/{method}", fields, {}))[0]
        if not answer["ok"]:
            raise ApiError(answer["error_code"], answer["description"], **answer.get("parameters", {}))
        return answer["result"]

    def _tell(self) -> None:
        """Let everybody who waits for something look again."""
        self._news.set()
        self._news = asyncio.Event()
        if self._webhook is not None:
            self._pump_all()

    async def _until(self, found: Callable[[], T | None], what: str) -> T:
        try:
            async with asyncio.timeout(self.patience):
                while (result := found()) is None:
                    await self._news.wait()
                return result
        except TimeoutError:
            said = Counter(call.method for call in self.sent)
            raise AssertionError(
                f"waited {self.patience:g} s for {what}; so far: {dict(said)}, {len(self._waiting)} updates not taken"
            ) from None

    # ------------------------------------------------------------------ HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_message(reader)) is not None:
                writer.write(response(*await self._answer(request)))
                await writer.drain()
        except WireError as error:
            writer.write(response(400, {"ok": False, "error_code": 400, "description": f"Bad Request: {error}"}))

    async def _answer(self, request: HttpMessage) -> tuple[int, Json]:
        try:
            call = Call(self._method_of(request), *fields_of(request))
            return 200, {"ok": True, "result": await self._do(call)}
        except ApiError as error:
            answer = {"ok": False, "error_code": error.code, "description": error.description}
            return error.code, answer | ({"parameters": error.parameters} if error.parameters else {})

    def _method_of(self, request: HttpMessage) -> str:
        path = request.start.split(" ")[1].partition("?")[0]
        token, _, method = path.removeprefix("/bot").partition("/")
        if not path.startswith("/bot") or not method:
            raise ApiError(404, "Not Found")
        if token != self.token:
            raise ApiError(401, "Unauthorized")
        return method

    # ------------------------------------------------------------------ methods

    async def _do(self, call: Call) -> Any:
        known = self._METHODS.get(call.method.lower())
        if (known is None and not call.method.startswith(("get", "set", "delete"))) or call.method == "deleteMessage":
            self.sent.append(call)
        try:
            if call.method in self.answers:
                return _given(self.answers[call.method], call.fields)
            return await known(self, call.fields) if known is not None else self._plausible(call)
        finally:
            self._tell()

    def _plausible(self, call: Call) -> Any:
        method, fields = call.method, call.fields
        if method.startswith("send") and method not in ("sendChatAction", "sendMediaGroup"):
            return self._message(fields)
        if method in ("sendMediaGroup", "forwardMessages", "copyMessages"):
            return [self._message(fields) for _ in fields.get("media") or fields.get("message_ids") or ()]
        if method in ("copyMessage", "forwardMessage") or (method.startswith("edit") and "chat_id" in fields):
            return self._message(fields)
        if method == "getChat":
            return self._chat(fields["chat_id"])
        if method.startswith("get"):
            return []
        return True

    def _message(self, fields: Json) -> Json:
        """Return the message that a call made or changed."""
        kept: Json = {
            name: fields[name] for name in ("text", "caption", "entities", "message_thread_id") if name in fields
        }
        markup = fields.get("reply_markup")
        if isinstance(markup, dict) and "inline_keyboard" in markup:
            kept["reply_markup"] = markup
        message_id = fields.get("message_id") or next(self._message_ids)
        chat = self._chat(fields.get("chat_id", 0))
        return {"message_id": message_id, "date": int(time.time()), "from": self.me, "chat": chat, **kept}

    def _chat(self, chat_id: int | str) -> Json:
        if isinstance(chat_id, str):
            return {"id": -1002000000000, "type": "channel", "title": chat_id, "username": chat_id.lstrip("@")}
        kind = "private" if chat_id > 0 else "supergroup" if chat_id < -1_000_000_000_000 else "group"
        return self._chats.get(chat_id, {"id": chat_id, "type": kind})

    async def _get_me(self, _: Json) -> Json:
        return self.me

    async def _get_updates(self, fields: Json) -> list[Json]:
        self._polls += 1
        mine = self._polls
        self._allow(fields)
        offset = fields.get("offset") or 0
        if offset < 0:
            offset = self._waiting[offset:][0]["update_id"] if self._waiting else 0
        self._waiting = [update for update in self._waiting if update["update_id"] >= offset]
        self._tell()
        try:
            async with asyncio.timeout(fields.get("timeout") or 0):
                while True:
                    if self._webhook is not None:
                        _conflict("can't use getUpdates method while webhook is active")
                    if mine != self._polls:
                        _conflict("terminated by other getUpdates request")
                    self._drop()
                    if self._waiting:
                        return self._waiting[: fields.get("limit") or 100]
                    await self._news.wait()
        except TimeoutError:
            return []

    async def _set_webhook(self, fields: Json) -> bool:
        if fields.get("drop_pending_updates"):
            self._waiting.clear()
        self._allow(fields)
        urls = [fields["url"]] if fields.get("url") else []
        self.deliver_to(
            *urls,
            secret_token=fields.get("secret_token"),
            max_connections=fields.get("max_connections") or 40,
        )
        return True

    async def _delete_webhook(self, fields: Json) -> bool:
        return await self._set_webhook({**fields, "url": ""})

    async def _get_webhook_info(self, _: Json) -> Json:
        info: Json = {"url": "", "has_custom_certificate": False, "pending_update_count": len(self._waiting)}
        if self._webhook is not None:
            info |= {"url": self._webhook.urls[0], "max_connections": self._webhook.max_connections}
            if self._webhook.last_error is not None:
                info["last_error_date"], info["last_error_message"] = self._webhook.last_error
        return info

    _METHODS: Final = {
        "getme": _get_me,
        "getupdates": _get_updates,
        "setwebhook": _set_webhook,
        "deletewebhook": _delete_webhook,
        "getwebhookinfo": _get_webhook_info,
    }

    # ------------------------------------------------------------------ handing out updates

    def _allow(self, fields: Json) -> None:
        """Remember which updates the bot wants; the last it said counts."""
        if "allowed_updates" in fields:
            self._allowed = frozenset(fields["allowed_updates"]) or None

    def _drop(self) -> None:
        """Drop what the bot does not want, as Telegram does."""
        unwanted = [update for update in self._waiting if not self._is_wanted(update)]
        if unwanted:
            self.dropped += unwanted
            self._waiting = [update for update in self._waiting if self._is_wanted(update)]

    def _is_wanted(self, update: Json) -> bool:
        kind = _kind_of(update)
        return kind not in NOT_BY_DEFAULT if self._allowed is None else kind in self._allowed

    def _pump_all(self) -> None:
        self._drop()
        for queue in {_queue_of(update): None for update in self._waiting}:
            if queue not in self._pumping:
                self._pumping.add(queue)
                task = asyncio.get_running_loop().create_task(self._pump(queue))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pump(self, queue: object) -> None:
        """Bring the updates of one chat to the webhook, one after the other, as long as it takes."""
        failures = 0
        try:
            while (webhook := self._webhook) is not None and (update := self._next(queue)) is not None:
                async with webhook.slots:
                    delivered = await self._deliver(update, webhook)
                if delivered:
                    failures = 0
                    self._waiting.remove(update)
                    self._tell()
                else:
                    await asyncio.sleep(RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)])
                    failures += 1
        finally:
            self._pumping.discard(queue)

    def _next(self, queue: object) -> Json | None:
        return next((update for update in self._waiting if _queue_of(update) == queue), None)

    async def _deliver(self, update: Json, webhook: _Webhook) -> bool:
        url = next(webhook.turns)
        headers = {} if webhook.secret_token is None else {"X-Telegram-Bot-Api-Secret-Token": webhook.secret_token}
        try:
            async with asyncio.timeout(60):
                answer = await post(url, update, headers)
        except (OSError, WireError) as error:
            self.deliveries.append(Delivery(update["update_id"], url, None))
            webhook.last_error = int(time.time()), str(error)
            return False
        self.deliveries.append(Delivery(update["update_id"], url, answer.status))
        if not 200 <= answer.status < 300:
            webhook.last_error = int(time.time()), f"Wrong response from the webhook: {answer.start}"
            return False
        fields, files = fields_of(answer)
        if "method" in fields:  # A webhook may call one method by its answer.
            await self._do(Call(fields.pop("method"), fields, files))
        return True


def _given(answer: Any, fields: Json) -> Any:
    if callable(answer):
        answer = answer(fields)
    if isinstance(answer, ApiError):
        raise answer
    return answer


def _conflict(why: str) -> NoReturn:
    raise ApiError(409, f"Conflict: {why}")


def _kind_of(update: Json) -> str:
    return next(kind for kind in update if kind != "update_id")


def _chat_of(update: Json) -> Json | None:
    event = update[_kind_of(update)]
    chat: Json | None = event.get("chat") or event.get("message", {}).get("chat")
    return chat


def _queue_of(update: Json) -> object:
    """Say which updates wait for each other: those of a chat, else those of a user."""
    chat = _chat_of(update)
    return (chat or update[_kind_of(update)].get("from") or update[_kind_of(update)].get("user") or {}).get("id")
