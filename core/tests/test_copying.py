"""Copying: what tests/test_swap.py, between all pairs of storages, does not ask."""

import pytest
from bot_session import (
    ConfigurationError,
    FallbackStorage,
    MemoryStorage,
    ObservedStorage,
    PrefixedStorage,
    Seal,
    Sessions,
    Write,
    copy_documents,
    generate_key,
)
from bot_session.leases import LEASE_PREFIX

SEAL = Seal(generate_key())


@pytest.fixture
def memory():
    return MemoryStorage()


@pytest.fixture
def target():
    return MemoryStorage()


async def fill(storage, seal=SEAL):
    """Write a plain document, a lease, and a session with a seal."""
    await storage.write_many([Write("1", "{}"), Write(LEASE_PREFIX + "42", "{}")])
    async with Sessions(storage, initial=dict, seal=seal).open("42") as session:
        session.data["n"] = "7" * 100


async def keys_of(storage):
    return {key async for key in storage.read_all_keys()}


async def test_leases_are_not_copied_whatever_they_are_behind(memory, target):
    await fill(memory, None)
    await fill(PrefixedStorage(memory, "pizza:"), None)

    assert (4, 0) == await copy_documents(memory, target)
    assert {"1", "42", "pizza:1", "pizza:42"} == await keys_of(target)


class TestEncrypted:
    @pytest.mark.parametrize("batch_size", [1, 500])
    async def test_what_could_not_be_decrypted_there_is_not_copied(self, memory, target, batch_size):
        source = PrefixedStorage(memory, "pizza:")
        await fill(source)
        with pytest.raises(
            ConfigurationError, match=r"'42' is encrypted for the key 'pizza:42' .* under '42': copy with the same"
        ):
            await copy_documents(source, target, batch_size=batch_size)

        assert set() == await keys_of(target)

    async def test_neither_into_another_prefix_behind_other_wrappers(self, memory, target):
        await fill(memory)
        into = ObservedStorage(FallbackStorage(PrefixedStorage(target, "a:"), MemoryStorage()), lambda _: None)
        with pytest.raises(ConfigurationError):
            await copy_documents(memory, into, prefix="4")

        assert (1, 0) == await copy_documents(memory, into, prefix="1")

    @pytest.mark.parametrize("prefixes", [("", ""), ("a:", "a:"), ("ab:", "ab:")], ids=str)
    async def test_where_the_key_stays_the_same_it_is_copied(self, memory, target, prefixes):
        source, into = (
            PrefixedStorage(PrefixedStorage(place, prefix[:1]), prefix[1:])
            for place, prefix in zip((memory, target), prefixes, strict=True)
        )
        await fill(source)

        assert (2, 0) == await copy_documents(source, into)
        assert {"n": "7" * 100} == await Sessions(into, seal=SEAL).read("42")

    @pytest.mark.parametrize("seal", [Seal(compress=True), None], ids=["compressed", "plain"])
    async def test_what_is_not_encrypted_goes_anywhere(self, memory, target, seal):
        source = PrefixedStorage(memory, "pizza:")
        await fill(source, seal)

        assert (2, 0) == await copy_documents(source, target)
        assert {"n": "7" * 100} == await Sessions(target, seal=seal).read("42")
