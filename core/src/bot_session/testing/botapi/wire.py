"""As much of HTTP as Bot API clients and webhooks speak, on asyncio's streams: nothing to install, any client works."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import json
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

__all__ = ["HttpMessage", "WireError", "fields_of", "post", "read_message", "response"]

MAX_HEAD: Final = 64 * 1024

INTEGERS: Final = frozenset({
    "chat_id", "from_chat_id", "limit", "max_connections", "message_id", "message_thread_id", "offset", "timeout",
    "user_id",
})  # fmt: skip
"""Fields that are numbers, which a form sends as text."""

TEXTS: Final = frozenset({"text", "caption"})
"""Fields that stay text even where they look like JSON."""


class WireError(Exception):
    """The other side does not speak HTTP as expected."""


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """A request or a response: its first line, headers and body."""

    start: str
    headers: Message
    body: bytes

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split()[1])


async def read_message(reader: asyncio.StreamReader) -> HttpMessage | None:
    """
    Read a request or a response; None if the other side has hung up instead.

    Raises:
        WireError: It is no HTTP.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise WireError("hung up in the middle of the headers") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise WireError(f"headers of more than {MAX_HEAD} bytes") from error
    start, _, rest = head.partition(b"\r\n")
    headers = email.parser.BytesHeaderParser(policy=email.policy.HTTP).parsebytes(rest)
    try:
        return HttpMessage(start.decode("latin-1"), headers, await _read_body(reader, headers))
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise WireError("a broken body") from error


async def _read_body(reader: asyncio.StreamReader, headers: Message) -> bytes:
    if "chunked" not in headers.get("Transfer-Encoding", "").lower():
        return await reader.readexactly(int(headers.get("Content-Length", "0")))
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():  # Trailers, up to an empty line.
        pass
    return b"".join(chunks)


def response(status: int, payload: object) -> bytes:
    """Make a response that carries JSON."""
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def post(url: str, payload: object, headers: Mapping[str, str]) -> HttpMessage:
    """
    POST JSON, as Telegram does to a webhook.

    Raises:
        OSError: There is no answer.
        WireError: The answer is no HTTP.
    """
    target = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port or 80, limit=MAX_HEAD)
    try:
        body = json.dumps(payload).encode()
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {target.netloc}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = await read_message(reader)
    finally:
        writer.close()
    if answer is None:
        raise WireError("hung up without an answer")
    return answer


def fields_of(message: HttpMessage) -> tuple[dict[str, Any], dict[str, bytes]]:
    """
    Return the fields of a request's query and body, or of a response, and the files among them, by name.

    Raises:
        WireError: The body is not what its content type says.
    """
    parts = message.start.split(" ")
    query = urllib.parse.urlsplit(parts[1]).query if len(parts) > 2 else ""
    fields = _typed(urllib.parse.parse_qsl(query, keep_blank_values=True))
    files: dict[str, bytes] = {}
    if not message.body:
        return fields, files
    kind = message.headers.get_content_type()
    if kind == "application/json":
        try:
            fields |= json.loads(message.body)
        except (ValueError, TypeError) as error:
            raise WireError("the body is no JSON object") from error
    elif kind == "application/x-www-form-urlencoded":
        fields |= _typed(urllib.parse.parse_qsl(message.body.decode(), keep_blank_values=True))
    elif kind == "multipart/form-data":
        texts, files = _parts(message)
        fields |= _typed(texts)
    return fields, files


def _parts(message: HttpMessage) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    head = f"Content-Type: {message.headers['Content-Type']}\r\n\r\n".encode("latin-1")
    whole = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + message.body)
    texts: list[tuple[str, str]] = []
    files: dict[str, bytes] = {}
    for part in whole.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        payload = part.get_payload(decode=True)
        if not isinstance(payload, bytes):
            raise WireError(f"the field {name!r} is no single value")
        if part.get_filename() is None:
            texts.append((name, payload.decode()))
        else:
            files[name] = payload
    return texts, files


def _typed(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Give a form's fields the types that the same call has in JSON."""
    return {name: _value(name, text) for name, text in fields}


def _value(name: str, text: str) -> Any:
    if name in TEXTS or not (name in INTEGERS or text.startswith(("{", "[")) or text in ("true", "false")):
        return text
    try:
        return json.loads(text)
    except ValueError:  # A chat may be an @name.
        return text
