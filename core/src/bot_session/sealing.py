"""
Sealing: documents compressed, then encrypted, on their way into the storage.

A sealed document is a JSON string that says how it was made, so every storage keeps it as it keeps any other::

    "bot-session:sealed:zlib+aes-256-gcm:1f0c9a3e:<base64>"

Encryption is AES-256-GCM. The nonce is random: 96 bits, so one key is good for four billion writes (NIST SP 800-38D).
The document's key in the storage is bound in: a document that was moved to the key of another chat is refused. It is the
key as the innermost storage sees it, so ``Sessions(storage, prefix="a:")`` and ``PrefixedStorage(storage, "a:")`` read
the same documents, and a copy under the same key, in whatever storage, remains readable.

What encryption does not hide: keys, sizes, times, and that a session exists. Whoever can write to the storage can bring
back an older document of the same session, or delete it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from .errors import ConfigurationError, ConflictError, DecodeError, EncodeError
from .leases import is_lease
from .storage import Write, conflicts_only
from .wrappers import locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from .storage import Record, Storage

__all__ = ["SEALED", "Resealed", "Seal", "generate_key", "reseal_documents"]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
COMPRESSIBLE: Final = 2**26
"""Longer documents are not compressed: nothing that is read may grow beyond this, or a small one could fill memory."""

SEALED: Final = '"bot-session:sealed:'
_ZLIB: Final = "zlib"
_AES: Final = "aes-256-gcm"
_BOTH: Final = f"{_ZLIB}+{_AES}"


class _Sealed(NamedTuple):
    """A sealed document, taken apart: how it was made, the id of its key (empty without one), and what is in it."""

    how: str
    key_id: str
    content: str

    @classmethod
    def parse(cls, document: str) -> _Sealed | None:
        """Return the parts of a sealed document; None if it is a plain one."""
        if not document.startswith(SEALED):
            return None
        how, _, rest = document[len(SEALED) : -1].partition(":")
        key_id, _, content = rest.partition(":")
        return cls(how, key_id, content)


class Seal:
    """
    How documents are sealed: the ``seal`` option of `Sessions`.

    Example:
        >>> from bot_session import MemoryStorage, Seal, Sessions, generate_key
        >>> key = generate_key()  # once; then keep it where you keep the bot's token
        >>> sessions = Sessions(MemoryStorage(), seal=Seal(key, compress=True))

    To change the key, put the new one first: ``Seal(new, old)`` reads what either wrote and writes with the new one.
    `reseal_documents`, or ``bot-session seal``, rewrites the rest, and then the old one can go.

    Args:
        keys: What to encrypt with: the first writes, all read. 32 bytes, or base64 of them as `generate_key` makes.
            Without keys nothing is encrypted.
        compress: Whether to compress documents that get shorter by it. With encryption, mind that sizes show how well
            something compresses: leave it off if outsiders can put text beside a secret and see the size.
        accept_plain: Whether to read documents that are not encrypted although there are keys, as on the first day.
            Off by default: whoever can write to the storage could otherwise put any document in place of an encrypted
            one. What is read is encrypted at the next write.

    Raises:
        ConfigurationError: A key is none, or is there twice, or the package ``cryptography`` is missing.
    """

    def __init__(self, *keys: bytes | str, compress: bool = False, accept_plain: bool = False) -> None:
        self._ciphers: dict[str, AESGCM] = {}
        for position, key in enumerate(keys, 1):
            key_id, cipher = _cipher(key, position)
            if key_id in self._ciphers:
                raise ConfigurationError(f"the key {key_id} is there twice")
            self._ciphers[key_id] = cipher
        self._current = next(iter(self._ciphers), "")
        self._compress = compress
        self._accept_plain = accept_plain or not keys
        self.inert: Final = not keys and not compress
        """Whether it leaves documents as they are, unless they begin as sealed ones do."""

    def leaves(self, document: str) -> bool:
        """Whether sealing and unsealing both return this document as it is, wherever it is kept."""
        return self.inert and not document.startswith(SEALED)

    def seal(self, document: str, place: str) -> str:
        """
        Seal a document.

        Args:
            document: The document.
            place: Its key in the innermost storage (see `bot_session.wrappers.locate`).

        Returns:
            What to store; without keys, if compressing it gains nothing, the document as it is.

        Raises:
            EncodeError: It is no text that can be encoded, or too long.
        """
        try:
            plain = document.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("the document holds half a character (a lone surrogate)") from error
        content = self._compressed(plain)
        if self._current:
            return self._encrypt(content, _AES if content is plain else _BOTH, place)
        if content is not plain and len(sealed := _render(_ZLIB, "", content)) < len(plain):
            return sealed
        # Data that would be taken for a sealed document goes into an envelope, which stands before it.
        return f'{{"__d":{document}}}' if document.startswith(SEALED) else document

    def unseal(self, document: str, place: str) -> str:
        """
        Take the seal off a document, or return a plain one as it is.

        Args:
            document: What was read.
            place: As for `seal`.

        Raises:
            DecodeError: It was changed, was sealed for another place or with a key that is not here, or is plain
                where it should not be.
        """
        sealed = _Sealed.parse(document)
        if sealed is not None and sealed.how in {_AES, _BOTH}:
            content = self._decrypt(sealed, place)
        elif not self._accept_plain:
            raise DecodeError(
                "the document is not encrypted; if it is from before there were keys, see accept_plain of Seal"
            )
        elif sealed is None:
            return document
        elif sealed.how == _ZLIB and not sealed.key_id:
            content = _content(sealed)
        else:
            raise DecodeError("the document is sealed in a way that this version does not know")
        if sealed.how in {_ZLIB, _BOTH}:
            content = _decompress(content)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("the sealed document is broken: it holds no text") from error

    def is_current(self, document: str) -> bool:
        """Whether a document is encrypted with the first key; without keys: whether it is not encrypted."""
        sealed = _Sealed.parse(document)
        return (sealed.key_id if sealed else "") == self._current

    def _compressed(self, content: bytes) -> bytes:
        if not self._compress or len(content) > COMPRESSIBLE:
            return content
        return min(content, zlib.compress(content), key=len)

    def _encrypt(self, content: bytes, how: str, place: str) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            encrypted = self._ciphers[self._current].encrypt(nonce, content, _bound(how, self._current, place))
        except OverflowError as error:
            raise EncodeError(f"the document has {len(content):,} bytes, too many to encrypt") from error
        return _render(how, self._current, nonce + encrypted)

    def _decrypt(self, sealed: _Sealed, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only where there are keys

        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            known = ", ".join(self._ciphers) or "none"
            raise DecodeError(f"the document is encrypted with the key {sealed.key_id[:8]!r}; the keys here: {known}")
        content = _content(sealed)
        nonce, encrypted = content[:NONCE_BYTES], content[NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, encrypted, _bound(sealed.how, sealed.key_id, place))
        except (InvalidTag, ValueError) as error:
            raise DecodeError(
                "the document was changed after it was encrypted, or was encrypted for another"
            ) from error

    def __repr__(self) -> str:
        parts = [f"key {key_id}" for key_id in self._ciphers]
        parts += ["compressing"] if self._compress else []
        parts += ["accepting plain documents"] if self._accept_plain and self._ciphers else []
        return f"<{type(self).__name__}: {', '.join(parts) or 'none'}>"


class Resealed(NamedTuple):
    """
    How sealing again went.

    Attributes:
        written: How many documents were written again.
        kept: How many were as they should be.
    """

    written: int
    kept: int


async def reseal_documents(
    storage: Storage,
    seal: Seal,
    *,
    prefix: str = "",
    batch_size: int = 500,
    on_error: Callable[[DecodeError], object] | None = None,
) -> Resealed:
    """
    Encrypt all documents with the first key of ``seal``.

    Bots may go on meanwhile, if they know all the keys: every write matches what was read, and is tried again if
    somebody came in between. The remaining life stays. It may be run again.

    Args:
        storage: Where they are.
        seal: How to seal them, with all the keys that are in use. ``accept_plain`` says whether to take plain ones.
        prefix: Only keys that start with it.
        batch_size: How many to carry at a time.
        on_error: Called with the error of a document that cannot be unsealed, which is then left as it is. Without it,
            the error is raised.

    Returns:
        How many were written, and how many were as they should be.

    Raises:
        DecodeError: One of them cannot be unsealed, and there is no ``on_error``. Some of the others are done.
        StorageError: The storage failed. Some of them are done.
    """
    written = kept = 0
    batch: dict[str, Record] = {}

    def resealed(key: str, record: Record) -> Write | None:
        place = locate(storage, key)[1]
        try:
            return Write(key, seal.seal(seal.unseal(record.value, place), place), record.lasting, record.version)
        except DecodeError as error:
            error.key = key
            if on_error is None:
                raise
            on_error(error)
            return None

    async def carry() -> None:
        nonlocal written, kept
        while batch:
            writes = [write for item in batch.items() if (write := resealed(*item)) is not None]
            results = conflicts_only(await storage.write_many(writes))
            lost = [w.key for w, result in zip(writes, results, strict=True) if isinstance(result, ConflictError)]
            written += len(writes) - len(lost)
            again = await storage.read_many(lost)
            batch.clear()
            batch.update((key, record) for key, record in again.items() if not seal.is_current(record.value))
            kept += len(again) - len(batch)

    async for key, record in storage.read_all_entries(prefix, batch_size=batch_size):
        if is_lease(key):
            continue
        if seal.is_current(record.value):
            kept += 1
            continue
        batch[key] = record
        if len(batch) >= batch_size:
            await carry()
    await carry()
    return Resealed(written, kept)


def generate_key() -> str:
    """Return a new random key for `Seal`, as base64 text: 44 characters."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _cipher(key: bytes | str, position: int) -> tuple[str, AESGCM]:
    """Return a key's id and its cipher. No error here holds the key, nor has one as its context."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(f"encryption needs: pip install 'bot-session[crypto]' ({error})") from error
    material = _decode_base64(key.translate(_STANDARD_ALPHABET)) if isinstance(key, str) else key
    if not isinstance(material, bytes) or len(material) != KEY_BYTES:
        raise ConfigurationError(f"key {position} is neither {KEY_BYTES} bytes nor base64 of them: see generate_key()")
    key_id = hmac.digest(material, b"bot-session key id", hashlib.sha256)[:4].hex()
    return key_id, AESGCM(material)


_STANDARD_ALPHABET: Final = str.maketrans("+/", "-_")


def _decode_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def _bound(how: str, key_id: str, place: str) -> bytes:
    """What is authenticated besides the content. A key holds no NUL, so no two cases look alike."""
    return f"{how}:{key_id}\0{place}".encode()


def _render(how: str, key_id: str, content: bytes) -> str:
    return f'{SEALED}{how}:{key_id}:{base64.urlsafe_b64encode(content).decode()}"'


def _content(sealed: _Sealed) -> bytes:
    content = _decode_base64(sealed.content)
    if content is None:
        raise DecodeError("the sealed document is broken: it is not base64")
    return content


def _decompress(content: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(content, COMPRESSIBLE + 1)
    except zlib.error as error:
        raise DecodeError(f"the sealed document is broken: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(data) > COMPRESSIBLE:
        raise DecodeError(f"the sealed document is broken, or has more than {COMPRESSIBLE:,} bytes")
    return data
