"""Every key has a file of its own, inside the folder, on every disk."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot_session_storage_file._paths import MAX_KEY_BYTES, key_of, path_of, plain_path_of, shard_of, shard_of_folder

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=400)
# What an encoding gets wrong: dots, separators, signs of its own, letters of both cases, names of devices, its suffix.
tricky = st.lists(
    st.sampled_from([".", "/", "\\", "%", "%41", "+", "+/+", "a", "A", "con", "CON", ".json", "1", "-", "😀", "é", "x" * 247])
).map("".join)  # fmt: skip
keys = (text | tricky).filter(lambda key: len(key.encode()) <= MAX_KEY_BYTES)


@pytest.mark.parametrize(("key", "path"), [
    ("42", "42/42.json"),
    ("-1001234567890", "90/-1001234567890.json"),
    ("7", "7/7.json"),
    ("", ".json"),
    ("pizza_42-x.y", "%2Ey/pizza_42-x.y.json"),
])  # fmt: skip
def test_plain_keys_rest_where_grammy_puts_them(key: str, path: str) -> None:
    assert path == path_of(key)
    assert plain_path_of(key) in {None, ".y/pizza_42-x.y.json"}


@pytest.mark.parametrize(("key", "path", "plain"), [
    ("1:2", "%3A2/1%3A2.json", ":2/1:2.json"),
    ("Ab", "%41b/%41b.json", "Ab/Ab.json"),
    ("é😀", "%F0%9F%98%80/%C3%A9%F0%9F%98%80.json", "😀/é😀.json"),
    ("😀a", "%EF%BF%BDa/%F0%9F%98%80a.json", "\ufffda/😀a.json"),
    ("con", "on/%63on.json", "on/con.json"),
    ("lpt1.x", "%2Ex/%6Cpt1.x.json", ".x/lpt1.x.json"),
    (".hidden.", "n%2E/%2Ehidden%2E.json", "n./.hidden..json"),
    ("123/456", "56/123%2F456.json", None),
    ("..", "%2E%2E/%2E%2E.json", None),
    ("../../escape", "pe/%2E.%2F..%2Fescape.json", None),
])  # fmt: skip
def test_other_keys_are_encoded_and_found_where_grammy_puts_them(key: str, path: str, plain: str | None) -> None:
    assert path == path_of(key)
    assert plain == plain_path_of(key)


def test_long_names_continue_in_folders() -> None:
    key = "A" * 200

    assert path_of(key) == f"%41%41/{('%41' * 200)[:248]}+/+{('%41' * 200)[248:496]}+/+{('%41' * 200)[496:]}.json"


@given(keys)
@example("x" * 243 + ".json" + "x" * 30)
def test_the_key_can_be_told_from_the_path(key: str) -> None:
    assert key == key_of(path_of(key))
    assert plain_path_of(key) is None or key == key_of(plain_path_of(key) or "")


@given(keys)
def test_no_path_leaves_the_folder_or_has_a_name_that_a_disk_refuses(key: str) -> None:
    for path in (path_of(key), plain_path_of(key) or "x"):
        parts = path.split("/")

        assert not {"", ".", ".."}.intersection(parts)
        assert max(len(part.encode()) for part in parts) <= 255
    assert path_of(key).isascii()
    assert not [part for part in path_of(key).split("/")[:-1] if part.startswith(".") or part.endswith((".", ".json"))]


@given(st.lists(keys, unique=True), st.lists(tricky, unique=True))
@example(["Foo", "foo", "FOO", "%41", "A", "%2541"], ["Aab", "%41ab"])
def test_no_two_keys_share_a_file_not_even_on_a_disk_blind_to_case(some: list[str], more: list[str]) -> None:
    distinct = [key for key in dict.fromkeys(some + more) if len(key.encode()) <= MAX_KEY_BYTES]
    own = {path_of(key).lower() for key in distinct}
    plain = [path for key in distinct if (path := plain_path_of(key)) is not None]

    assert len(distinct) == len(own)
    assert len(plain) == len(set(plain))
    assert not {path_of(key) for key in distinct}.intersection(plain)


@given(keys)
def test_both_folders_of_a_key_belong_to_its_shard(key: str) -> None:
    for path in (path_of(key), plain_path_of(key)):
        if path is not None and "/" in path:
            assert shard_of(key) == shard_of_folder(path.partition("/")[0])


@pytest.mark.parametrize("path", [
    "notes.txt", "readme.json", "42/43.json", "42/42.txt", "42/sub/42.json", "42/%00.json", "42/42.json/x.json",
    "90/90+/+90.json", "%2f/%2f.json", "ab/\udcffab.json", "42/" + "1" * 2000 + "42.json",
])  # fmt: skip
def test_other_files_are_nobodys(path: str) -> None:
    assert key_of(path) is None


@pytest.mark.parametrize("folder", [".locks", "lost+found", "%4", "%2f", "abc", "\udcff", "%C3"])
def test_other_folders_are_nobodys(folder: str) -> None:
    assert shard_of_folder(folder) in {None, "%4"}
