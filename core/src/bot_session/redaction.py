"""Keeping secrets out of errors, logs and reprs. Imports nothing of the project, so that every adapter can use it."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["hide_secrets", "looks_secret", "redact_url"]

_SECRET_NAME = re.compile(
    r"passw|passphrase|^pass$|pwd|secret|token|jwt|credential|signature|^auth$|authmechanismproperties|key$",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/*|")
_HIDDEN = "***"


def looks_secret(name: str) -> bool:
    """Return whether an option of this name is likely to hold a secret: ``password``, ``apikey``, ``sslPassword``."""
    return _SECRET_NAME.search(unquote(name)) is not None


def redact_url(url: str) -> str:
    """
    Return a URL fit for errors and logs: without user info, and without the values of options that look secret.

    It takes any text, and hides too much rather than too little: a password that should have been percent-encoded, and
    holds ``/``, ``?``, ``#`` or ``@``, is hidden as a whole. The result is for reading, never for connecting.

    Example:
        >>> redact_url("redis://bot:hunter2@localhost/0?prefix=pizza:&password=hunter2")
        'redis://***@localhost/0?prefix=pizza:&password=***'
    """
    scheme, rest = _split_scheme(url)
    rest, question_mark, query = rest.partition("?")
    if "@" in query:  # either a password with a question mark, or an option with an at sign: nobody can tell
        return scheme + _HIDDEN
    _, at, after = rest.rpartition("@")
    shown = f"{_HIDDEN}@{after}" if at else rest
    return scheme + shown + question_mark + "&".join(_redact_option(option) for option in query.split("&"))


def hide_secrets(message: str, url: str) -> str:
    """Return a message without the secrets of a URL which it may quote, as a whole or in the usual parts."""
    address, _, query = _split_scheme(url)[1].partition("?")
    user_info = address.rpartition("@")[0]
    options = [option.partition("=") for option in query.split("&")]
    secrets = {user_info, user_info.partition(":")[2], *(value for name, _, value in options if looks_secret(name))}
    message = message.replace(url, redact_url(url))
    for secret in sorted(secrets | {unquote(secret) for secret in secrets}, key=len, reverse=True):
        message = message.replace(secret, _HIDDEN) if secret else message
    return message


def _split_scheme(url: str) -> tuple[str, str]:
    match = _SCHEME.match(url)
    end = match.end() if match else 0
    return url[:end], url[end:]


def _redact_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return name + equals + _HIDDEN if equals and looks_secret(name) else option
