"""Documents that are compressed and encrypted: what can be read, by whom, and what is refused."""

import base64
import itertools
import json
import logging
import re
import secrets
import sys
import traceback
from dataclasses import dataclass, field

import pytest
from bot_session import (
    ABSENT,
    ConfigurationError,
    ConflictError,
    DecodeError,
    EncodeError,
    MemoryStorage,
    PrefixedStorage,
    Seal,
    Sessions,
    copy_documents,
    generate_key,
    reseal_documents,
    sealing,
)
from bot_session.leases import LEASE_PREFIX
from hypothesis import given
from hypothesis import strategies as st

KEY, OLD = generate_key(), generate_key()
SECRET = "the cheese is in the cellar"
SEALS = {
    "encrypting": Seal(KEY),
    "both": Seal(KEY, compress=True),
    "compressing": Seal(compress=True),
    "neither": Seal(),
}


@dataclass
class Diary:
    text: str = ""
    pages: list[str] = field(default_factory=list)


def diaries(storage, *keys, **options):
    seal = Seal(*(keys or (KEY,)), **{name: options.pop(name) for name in ("accept_plain",) if name in options})
    return Sessions(storage, initial=Diary, seal=seal, **options)


async def write_diary(sessions, key="42", text=SECRET):
    async with sessions.open(key) as session:
        session.data.text = text


def payload(document):
    """What is in a sealed document: nonce, ciphertext, tag."""
    return base64.urlsafe_b64decode(json.loads(document).rpartition(":")[2])


class TestSeals:
    @pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
    @given(document=st.text().filter(lambda text: not text.startswith('"bot-session:sealed:')), place=st.text())
    def test_what_is_unsealed_is_what_was_sealed(self, seal, document, place):
        place = place.encode("utf-8", "ignore").decode()

        assert document == seal.unseal(seal.seal(document, place), place)

    @pytest.mark.parametrize(
        "seal", [SEALS["encrypting"], SEALS["both"], SEALS["compressing"]], ids=["encrypting", "both", "compressing"]
    )
    def test_a_sealed_document_is_a_json_string_that_no_json_library_writes_differently(self, seal):
        document = seal.seal(json.dumps("x" * 1000), "42")

        assert document == json.dumps(json.loads(document))
        assert isinstance(json.loads(document), str)

    @pytest.mark.parametrize("size", [0, 1, 1024, 2**24])
    @pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
    def test_documents_may_have_any_size(self, seal, size):
        document = json.dumps("ä" * (size // 2), ensure_ascii=False)

        assert document == seal.unseal(seal.seal(document, "42"), "42")

    def test_every_sealing_has_a_nonce_of_its_own(self):
        seal = Seal(KEY)

        nonces = {payload(seal.seal("{}", "42"))[: sealing.NONCE_BYTES] for _ in range(10_000)}

        assert (10_000, {12}) == (len(nonces), set(map(len, nonces)))

    def test_what_is_compressed_gets_shorter(self):
        document = json.dumps(["the same again"] * 1000)

        assert len(SEALS["both"].seal(document, "")) < 500
        assert len(SEALS["compressing"].seal(document, "")) < 500
        assert len(SEALS["encrypting"].seal(document, "")) > len(document)

    def test_what_does_not_get_shorter_is_not_compressed(self):
        assert '{"count":1}' == SEALS["compressing"].seal('{"count":1}', "")
        assert ":aes-256-gcm:" in SEALS["both"].seal('{"count":1}', "")

    def test_keys_may_be_bytes_or_base64_of_either_alphabet(self):
        key = bytes(range(224, 256))
        text, url_safe = base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()
        assert text != url_safe

        sealed = Seal(key).seal("{}", "42")

        assert ["{}", "{}"] == [Seal(text).unseal(sealed, "42"), Seal(url_safe).unseal(sealed, "42")]

    def test_generated_keys_are_32_random_bytes(self):
        keys = [generate_key() for _ in range(100)]

        assert (100, {32}) == (len(set(keys)), {len(base64.urlsafe_b64decode(key)) for key in keys})

    @pytest.mark.parametrize(
        "key",
        ["", b"", KEY[:-4], KEY + "AAAA", KEY[:-2] + "?=", "pässword" * 4, b"k" * 16, b"k" * 33, 7, None],
        ids=itertools.count(),  # the key is another in every process
    )
    def test_what_is_no_key_is_refused_without_being_shown(self, key):
        with pytest.raises(ConfigurationError, match="key 2 is neither 32 bytes nor base64") as raised:
            Seal(KEY, key)

        assert raised.value.__context__ is None
        if key and not isinstance(key, int):
            assert str(key) not in "".join(traceback.format_exception(raised.value)).partition("Error: ")[2]

    def test_a_key_stands_there_once(self):
        with pytest.raises(ConfigurationError, match="is there twice"):
            Seal(KEY, OLD, base64.urlsafe_b64decode(KEY))

    def test_without_the_package_the_error_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)

        with pytest.raises(ConfigurationError, match=re.escape("pip install 'bot-session[crypto]'")):
            Seal(KEY)

    def test_compressing_needs_no_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
        monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
        seal = Seal(compress=True)

        assert "[" + "1," * 999 + "1]" == seal.unseal(seal.seal("[" + "1," * 999 + "1]", ""), "")

    def test_neither_repr_nor_errors_hold_a_key(self):
        raw = secrets.token_bytes(32)
        seal, others = Seal(raw, compress=True, accept_plain=True), Seal(KEY)
        with pytest.raises(DecodeError) as raised:
            others.unseal(seal.seal("{}", "42"), "42")

        shown = repr(seal) + repr(others) + "".join(traceback.format_exception(raised.value)) + str(vars(raised.value))

        assert re.fullmatch(r"<Seal: key [0-9a-f]{8}, compressing, accepting plain documents>", repr(seal))
        for secret in (KEY, repr(raw), raw.hex(), base64.b64encode(raw).decode()):
            assert secret not in shown

    def test_half_a_character_cannot_be_sealed(self):
        with pytest.raises(EncodeError, match="half a character"):
            SEALS["encrypting"].seal('"\ud800"', "42")


class TestTampering:
    @pytest.mark.parametrize("seal", [SEALS["encrypting"], SEALS["both"]], ids=["encrypting", "both"])
    def test_no_byte_can_be_changed_without_its_being_noticed(self, seal):
        document = seal.seal('{"a":"' + "x" * 100 + '"}', "42")
        content = payload(document)
        head = document.rpartition(":")[0]

        for position in range(len(content)):
            changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
            with pytest.raises(DecodeError, match="was changed"):
                seal.unseal(f'{head}:{base64.urlsafe_b64encode(changed).decode()}"', "42")

    @given(data=st.data())
    def test_a_changed_document_is_refused_or_the_same(self, data):
        original = '{"a":"' + "x" * 100 + '"}'
        document = SEALS["both"].seal(original, "42")
        position = data.draw(st.integers(0, len(document) - 1))
        changed = document[:position] + data.draw(st.text(max_size=2)) + document[position + 1 :]

        try:
            unsealed = SEALS["both"].unseal(changed, "42")
        except DecodeError:
            return
        assert original == unsealed  # base64 has bits that nobody reads

    @pytest.mark.parametrize("cut", [1, 12, 27])
    def test_what_was_cut_off_is_refused(self, cut):
        head, _, _ = SEALS["encrypting"].seal("{}", "42").rpartition(":")
        content = base64.urlsafe_b64encode(payload(SEALS["encrypting"].seal("{}", "42"))[:cut]).decode()

        with pytest.raises(DecodeError, match="was changed"):
            SEALS["encrypting"].unseal(f'{head}:{content}"', "42")

    def test_a_document_of_another_key_is_refused(self):
        with pytest.raises(DecodeError, match="was changed after it was encrypted, or was encrypted for another"):
            SEALS["encrypting"].unseal(SEALS["encrypting"].seal("{}", "42"), "43")

    def test_the_way_it_was_made_cannot_be_changed(self):
        document = Seal(KEY).seal("{}", "42").replace(":aes-256-gcm:", ":zlib+aes-256-gcm:")

        with pytest.raises(DecodeError, match="was changed"):
            Seal(KEY).unseal(document, "42")

    @pytest.mark.parametrize(
        "document",
        [
            '"bot-session:sealed:',
            '"bot-session:sealed:"',
            '"bot-session:sealed:zlib:"',
            '"bot-session:sealed:zlib::"',
            '"bot-session:sealed:zlib::AAAA"',
            '"bot-session:sealed:zlib::?"',
            '"bot-session:sealed:zlib::ä"',
            '"bot-session:sealed:zlib:01234567:AAAA"',
            '"bot-session:sealed:rot13::AAAA"',
            '"bot-session:sealed:aes-256-gcm::AAAA"',
            '"bot-session:sealed:aes-256-gcm:01234567:AAAA"',
        ],
    )
    @pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
    def test_what_is_nearly_sealed_is_refused(self, seal, document):
        with pytest.raises(DecodeError):
            seal.unseal(document, "42")

    def test_a_small_document_cannot_fill_the_memory(self, monkeypatch):
        document = Seal(compress=True).seal("1" * 100_000, "42")
        monkeypatch.setattr(sealing, "COMPRESSIBLE", 99_999)

        with pytest.raises(DecodeError, match="more than 99,999 bytes"):
            Seal(compress=True).unseal(document, "42")

    def test_what_would_be_too_large_to_read_is_not_compressed(self, monkeypatch):
        monkeypatch.setattr(sealing, "COMPRESSIBLE", 1000)

        assert "1" * 1001 == Seal(compress=True).seal("1" * 1001, "42")

    def test_what_follows_compressed_data_is_refused(self):
        document = Seal(compress=True).seal("1" * 1000, "42")
        head, _, _ = document.rpartition(":")

        with pytest.raises(DecodeError, match="broken"):
            Seal(compress=True).unseal(
                f'{head}:{base64.urlsafe_b64encode(payload(document) + b"more").decode()}"', "42"
            )


class TestSessions:
    async def test_sessions_work_as_ever_and_storages_see_nothing(self, storage):
        sessions = diaries(storage)
        await write_diary(sessions)
        await sessions.update("42", lambda diary: diary.pages.append("one"))

        assert Diary(SECRET, ["one"]) == await sessions.read("42")
        assert [("42", Diary(SECRET, ["one"]))] == [entry async for entry in sessions.entries()]
        assert await sessions.has("42")
        assert SECRET not in await storage.stored("42")
        assert (await storage.stored("42")).startswith('"bot-session:sealed:aes-256-gcm:')

    async def test_unchanged_data_is_not_written_although_every_sealing_differs(self, storage):
        sessions = diaries(storage)
        await write_diary(sessions)
        storage.calls.clear()

        await write_diary(sessions)

        assert [("read", "42")] == storage.calls

    async def test_migrations_and_envelopes_are_inside(self, storage):
        await write_diary(diaries(storage))
        newer = diaries(storage, migrations={1: lambda data: {**data, "pages": ["migrated"]}})

        await write_diary(newer, text="new")

        assert Diary("new", ["migrated"]) == await newer.read("42")
        assert "__d" not in await storage.stored("42")

    async def test_conflicts_are_merged_as_ever(self, storage):
        sessions, others = diaries(storage), diaries(storage, KEY)
        others.desk = Sessions(MemoryStorage()).desk  # as another process, which does not wait for this one
        await write_diary(sessions, text="first")

        async with sessions.open("42") as session:
            session.data.pages.append("mine")
            await write_diary(others, text="theirs")

        assert Diary("theirs", ["mine"]) == await sessions.read("42")

    async def test_a_conflict_that_cannot_be_merged_shows_the_plain_documents(self, storage):
        sessions, others = diaries(storage), diaries(storage)
        others.desk = Sessions(MemoryStorage()).desk
        await write_diary(sessions, text="first")

        with pytest.raises(ConflictError) as raised:
            async with sessions.open("42") as session:
                session.data.text = "mine"
                await write_diary(others, text="theirs")

        assert ('{"text":"mine","pages":[]}', ("text",)) == (raised.value.mine, raised.value.fields)

    @pytest.mark.parametrize("prefix", ["", "diary:"])
    async def test_a_session_moves_to_another_key(self, storage, prefix):
        sessions = diaries(storage, prefix=prefix)
        await write_diary(sessions)

        assert await sessions.move("42", "-10042")
        assert (None, Diary(SECRET)) == (await sessions.read("42"), await sessions.read("-10042"))

    async def test_what_was_moved_by_somebody_else_is_refused_and_stays(self, storage):
        sessions = diaries(storage)
        await write_diary(sessions)
        await storage.store("43", await storage.stored("42"))

        with pytest.raises(DecodeError, match="session '43': the document was changed") as raised:
            await write_diary(sessions, "43", "overwritten")
        with pytest.raises(DecodeError, match="session '43'"):
            await sessions.move("43", "44")

        assert "43" == raised.value.key
        assert await storage.stored("42") == await storage.stored("43")
        assert not await storage.has("44")

    async def test_the_prefix_may_be_the_storages_or_the_sessions(self):
        storage = MemoryStorage()
        await write_diary(diaries(storage, prefix="diary:"))

        assert Diary(SECRET) == await diaries(PrefixedStorage(storage, "diary:")).read("42")
        assert Diary(SECRET) == await diaries(PrefixedStorage(storage, "dia"), prefix="ry:").read("42")

    async def test_a_document_of_another_prefix_is_refused(self):
        storage = MemoryStorage()
        await write_diary(diaries(PrefixedStorage(storage, "a:")))
        await storage.write("b:42", (await storage.read("a:42")).value)

        with pytest.raises(DecodeError):
            await diaries(PrefixedStorage(storage, "b:")).read("42")

    async def test_a_copy_under_the_same_key_remains_readable(self):
        source, target = MemoryStorage(), MemoryStorage()
        await write_diary(diaries(source, prefix="diary:"))
        await copy_documents(source, target)

        assert Diary(SECRET) == await diaries(target, prefix="diary:").read("42")

    async def test_a_wrong_key_is_an_error_and_the_document_stays(self, storage):
        await write_diary(diaries(storage, OLD))
        before = await storage.stored("42")

        with pytest.raises(DecodeError, match=r"session '42': .* encrypted with the key '[0-9a-f]{8}'; the keys here"):
            await write_diary(diaries(storage, KEY), text="overwritten")

        assert before == await storage.stored("42")

    async def test_sessions_without_a_seal_do_not_take_a_sealed_document_for_text(self, storage):
        await write_diary(diaries(storage))
        before = await storage.stored("42")

        with pytest.raises(DecodeError, match="encrypted with the key"):
            async with Sessions(storage).open("42") as session:
                session.data = "overwritten"

        assert before == await storage.stored("42")

    @pytest.mark.parametrize("seal", [None, *SEALS.values()], ids=["none", *SEALS])
    async def test_data_that_looks_sealed_comes_back(self, storage, seal):
        text = json.loads(Seal(KEY).seal("{}", "42"))
        sessions = Sessions(storage, type=str, seal=seal)
        async with sessions.open("42") as session:
            session.data = text

        assert text == await sessions.read("42")
        assert await sessions.move("42", "43")
        assert text == await sessions.read("43")

    async def test_the_old_key_reads_and_the_new_one_writes(self, storage):
        await write_diary(diaries(storage, OLD), text="old")
        both = diaries(storage, KEY, OLD)
        assert Diary("old") == await both.read("42")

        await write_diary(both, text="new")

        assert Diary("new") == await diaries(storage, KEY).read("42")

    async def test_plain_documents_are_refused_and_stay(self, storage):
        await storage.store("42", '{"text":"planted"}')

        with pytest.raises(DecodeError, match="session '42': the document is not encrypted"):
            await write_diary(diaries(storage))

        assert '{"text":"planted"}' == await storage.stored("42")

    async def test_compressed_documents_are_plain_ones(self, storage):
        await storage.store("42", Seal(compress=True).seal(json.dumps({"text": "planted" * 100}), "42"))

        with pytest.raises(DecodeError, match="not encrypted"):
            await diaries(storage).read("42")
        assert Diary("planted" * 100) == await diaries(storage, KEY, accept_plain=True).read("42")

    async def test_plain_documents_are_read_if_asked_for_and_encrypted_when_written(self, storage):
        await storage.store("42", '{"text":"from before"}')
        sessions = diaries(storage, KEY, accept_plain=True)
        assert Diary("from before") == await sessions.read("42")

        await write_diary(sessions)

        assert Diary(SECRET) == await diaries(storage).read("42")

    async def test_what_cannot_be_unsealed_is_left_out_of_entries_if_asked_for(self, storage):
        sessions, errors = diaries(storage), []
        await write_diary(sessions)
        await storage.store("43", await storage.stored("42"))

        entries = [key async for key, _ in sessions.entries(on_error=errors.append)]

        assert (["42"], ["43"]) == (entries, [error.key for error in errors])

    async def test_nothing_secret_is_logged(self, storage, caplog):
        with caplog.at_level(logging.DEBUG):
            sessions = diaries(storage)
            await write_diary(sessions)
            with pytest.raises(DecodeError):
                await diaries(storage, OLD).read("42")

        assert KEY not in caplog.text + repr(sessions)
        assert SECRET not in caplog.text


class TestResealing:
    @pytest.fixture
    async def memory(self):
        storage = MemoryStorage()
        for n in range(5):
            await write_diary(diaries(storage, OLD, prefix="old:", ttl=1000), str(n))
        for n in range(3):
            await write_diary(diaries(storage, KEY, prefix="new:"), str(n))
        return storage

    @pytest.mark.parametrize("batch_size", [1, 2, 500])
    async def test_all_documents_get_the_first_key(self, memory, batch_size):
        assert (5, 3) == await reseal_documents(memory, Seal(KEY, OLD), batch_size=batch_size)

        assert ["0", "1", "2", "3", "4"] == [key async for key, _ in diaries(memory, KEY, prefix="old:").entries()]
        assert (0, 8) == await reseal_documents(memory, Seal(KEY), batch_size=batch_size)

    async def test_their_remaining_life_stays(self, memory):
        await reseal_documents(memory, Seal(KEY, OLD))

        assert 999 < (await memory.read("old:0")).ttl <= 1000
        assert (await memory.read("new:0")).ttl is None

    async def test_other_prefixes_and_leases_are_left_alone(self, memory):
        await memory.write(LEASE_PREFIX + "x", '{"holder":"me"}')
        await memory.write("plain", "{}")

        assert (5, 0) == await reseal_documents(memory, Seal(KEY, OLD), prefix="old:")
        assert (1, 8) == await reseal_documents(memory, Seal(KEY, accept_plain=True))
        assert '{"holder":"me"}' == (await memory.read(LEASE_PREFIX + "x")).value

    async def test_a_prefixed_storage_is_sealed_for_its_real_keys(self, memory):
        assert (5, 0) == await reseal_documents(PrefixedStorage(memory, "old:"), Seal(KEY, OLD))

        assert Diary(SECRET) == await diaries(memory, KEY, prefix="old:").read("0")

    async def test_one_that_cannot_be_read_is_told_and_stays(self, memory):
        await memory.write("old:plain", "{}")
        with pytest.raises(DecodeError, match="session 'old:plain': the document is not encrypted"):
            await reseal_documents(memory, Seal(KEY, OLD))
        errors = []

        assert (5, 3) == await reseal_documents(memory, Seal(KEY, OLD), on_error=errors.append)
        assert ["old:plain"] == [error.key for error in errors]
        assert "{}" == (await memory.read("old:plain")).value

    async def test_nothing_that_is_written_meanwhile_is_lost(self, memory):
        class Busy(PrefixedStorage):
            async def write_many(self, writes):
                """Let a bot come first, once each: one that changes a session, one that deletes it."""
                if not hasattr(self, "met"):
                    self.met = True
                    await write_diary(diaries(memory, OLD, prefix="old:"), "0", "written meanwhile, with the old key")
                    await write_diary(diaries(memory, KEY, OLD, prefix="old:"), "1", "with the new one")
                    await diaries(memory, OLD, prefix="old:").delete("2")
                return await super().write_many(writes)

        assert (3, 1) == await reseal_documents(Busy(memory, "old:"), Seal(KEY, OLD))

        texts = {key: diary.text async for key, diary in diaries(memory, KEY, prefix="old:").entries()}
        assert {
            "0": "written meanwhile, with the old key",
            "1": "with the new one",
            "3": SECRET,
            "4": SECRET,
        } == texts

    async def test_a_deleted_session_does_not_come_back(self, memory):
        await diaries(memory, OLD, prefix="old:").delete("0")

        await reseal_documents(memory, Seal(KEY, OLD))

        assert await memory.write("old:0", "{}", match=ABSENT)
