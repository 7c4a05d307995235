"""What is particular to files: grammY's, broken ones, full disks, several processes, killed ones."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from bot_session import (
    ABSENT,
    PRESENT,
    ConfigurationError,
    ConflictError,
    InvalidKeyError,
    SchemaError,
    StorageError,
    UnavailableError,
    Version,
    Write,
)

from bot_session_storage_file import FileStorage
from bot_session_storage_file._lookup import _has_exactly
from bot_session_storage_file._paths import lock_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NOW = 1_700_000_000.0
BROKEN = {"empty": b"", "half": b'{"count":', "no UTF-8": b'"\xff"', "no JSON": b"<html>", "two": b"{}{}"}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest_asyncio.fixture
async def storage(root: Path, clock: Clock) -> AsyncIterator[FileStorage]:
    async with FileStorage(root, timeout=5.0, clock=clock) as storage:
        yield storage


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a folder below which another user may go, as below pytest's own he may not."""
    folder = Path(tempfile.mkdtemp(prefix="bot-session-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


def files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def plant(root: Path, path: str, content: str | bytes) -> Path:
    """Write a file as grammY does, which knows neither locks nor temporary files."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


async def keys_of(storage: FileStorage) -> list[str]:
    return sorted([key async for key in storage.read_all_keys()])


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


# ---------------------------------------------------------------------- layout


async def test_files_are_where_grammy_puts_them_and_hold_what_grammy_reads(storage: FileStorage, root: Path) -> None:
    await storage.write("42", '{"count":1}')
    await storage.write("-1001234567890", '{"v":12,"__d":{"count":1}}', ttl=60)
    await storage.write("7", '{"count":1}', ttl=0.5)

    assert files(root) == {
        "90/-1001234567890.json": '{"v":12,"__d":{"count":1},"e":1700000060000}',
        "42/42.json": '{"count":1}',
        "7/7.json": '{"__d":{"count":1},"e":1700000000500}',
    }


@pytest.mark.parametrize("key", ["123/456", "../../escape", "..", "/etc/passwd", "a/../b", "\\..\\..\\x"])
async def test_no_key_leads_out_of_the_folder(storage: FileStorage, root: Path, key: str) -> None:
    before = {path for path in root.parent.rglob("*") if root not in path.parents}
    await storage.write(key, "1")
    record = await storage.read(key)

    assert record is not None
    assert record.value == "1"
    assert await keys_of(storage) == [key]
    assert before == {path for path in root.parent.rglob("*") if root not in path.parents}


async def test_folders_and_files_are_private(storage: FileStorage, root: Path) -> None:
    await storage.write("A" * 200, "1")
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}

    assert modes == {True: 0o700, False: 0o600}


async def test_deleting_removes_the_folders_that_become_empty(storage: FileStorage, root: Path) -> None:
    await storage.write_many([Write("A" * 200, "1"), Write("142", "1"), Write("242", "1")])
    await storage.delete_many(["A" * 200, "142"])
    assert await storage.write_many([Write("17", "1"), Write("17", None)]) == ["1", True]

    assert sorted(path.name for path in root.iterdir()) == [".locks", "42"]


# ---------------------------------------------------------------------- grammY's files


@pytest.mark.parametrize(("key", "path"), [("1:2", ":2/1:2.json"), ("Ab", "Ab/Ab.json"), ("42", "42/42.json")])
async def test_a_file_of_grammy_is_kept_up_in_place_and_in_its_style(
    storage: FileStorage, root: Path, key: str, path: str
) -> None:
    plant(root, path, '{\n\t"count": 1\n}')
    record = await storage.read(key)
    assert record is not None
    assert record.value == '{"count":1}'

    await storage.write(key, '{"count":2}', match=record.version)
    in_place = files(root)
    with pytest.raises(ConflictError):
        await storage.write(key, '{"count":3}', match=record.version)
    await storage.write(key, '{"count":3}', ttl=60)

    assert in_place == {path: '{\n\t"count": 2\n}'}
    assert files(root) == {path: '{\n\t"__d": {\n\t\t"count": 3\n\t},\n\t"e": 1700000060000\n}'}
    assert await keys_of(storage) == [key]
    assert await storage.delete(key) is True
    assert files(root) == {}


async def test_a_compact_file_stays_compact(storage: FileStorage, root: Path) -> None:
    plant(root, ":2/1:2.json", '{"count":1}')
    await storage.write("1:2", '{"count":2}')

    assert files(root) == {":2/1:2.json": '{"count":2}'}


async def test_the_expiry_of_grammys_enhanced_sessions_is_honoured(storage: FileStorage, root: Path) -> None:
    plant(root, "42/42.json", '{\n\t"__d": {\n\t\t"n": 1\n\t},\n\t"e": 1700000005000\n}')
    plant(root, "43/43.json", '{"v":2,"__d":{"n":1},"e":1699999999999}')
    record = await storage.read("42")

    assert record is not None
    assert (record.value, record.ttl) == ('{"n":1}', 5.0)
    assert await storage.read("43") is None
    plant(root, "43/43.json", '{"v": 2, "__d": {"n": 1}, "e": 1699999999999}\n')
    assert await storage.read("43") is None
    assert await keys_of(storage) == ["42"]


async def test_a_key_with_two_files_is_listed_once_ours_wins_and_delete_removes_both(
    storage: FileStorage, root: Path
) -> None:
    await storage.write("1:2", '"ours"')
    plant(root, ":2/1:2.json", '"grammY wrote this later"')
    record = await storage.read("1:2")

    assert record is not None
    assert record.value == '"ours"'
    assert await keys_of(storage) == ["1:2"]
    assert await storage.delete("1:2") is True
    assert await storage.read("1:2") is None


async def test_the_old_file_says_whom_the_new_one_lets_in(storage: FileStorage, root: Path) -> None:
    plant(root, "42/42.json", "1").chmod(0o644)
    await storage.write("42", "2")

    assert stat.S_IMODE((root / "42/42.json").stat().st_mode) == 0o644


async def test_on_a_disk_blind_to_case_a_name_counts_only_to_the_letter(tmp_path: Path) -> None:
    plant(tmp_path, "other/Foo.json", "1")
    plant(tmp_path, "blind/foo.json", "1")
    plant(tmp_path, "blind/Foo.JSON", "1")  # as if found by another case, which is how such a disk shows itself

    assert _has_exactly(str(tmp_path / "other/Foo.json"))
    assert not _has_exactly(str(tmp_path / "blind/Foo.json"))


# ---------------------------------------------------------------------- broken files, missing rights, full disks


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_is_an_error_that_names_it_and_it_stays(
    storage: FileStorage, root: Path, content: bytes
) -> None:
    file = plant(root, "42/42.json", content)
    calls = {
        "read": lambda: storage.read("42"),
        "has": lambda: storage.has("42"),
        "read_many": lambda: storage.read_many(["1", "42"]),
        "touch": lambda: storage.touch("42", 60),
        "write": lambda: storage.write("42", "1", match=PRESENT),
        "read_all_keys": lambda: keys_of(storage),
    }
    for method, call in calls.items():
        with pytest.raises(SchemaError, match=r"42/42\.json holds no JSON") as caught:
            pytest.fail(f"{method} returned {await call()!r}")
        assert caught.value.key == "42"
        assert isinstance(caught.value.__cause__, ValueError)
    assert await storage.purge() == 0
    assert file.read_bytes() == content


async def test_a_broken_file_is_mended_by_writing_without_a_match_or_deleting(storage: FileStorage, root: Path) -> None:
    for key in ("42", "43"):
        plant(root, f"{key}/{key}.json", "")
    await storage.write("42", "1")

    assert await storage.delete("43") is True
    assert files(root) == {"42/42.json": "1"}


async def test_what_is_no_json_is_refused_before_anything_is_written(storage: FileStorage, root: Path) -> None:
    for wrong in ("", "{", "nan", "\ud800"):
        with pytest.raises(ValueError):
            await storage.write_many([Write("1", "1"), Write("2", wrong)])
    with pytest.raises(TypeError):
        await storage.write("1", None)  # type: ignore[arg-type]
    assert files(root) == {}


async def test_something_else_in_the_place_of_a_file_or_folder_is_a_schema_error(
    storage: FileStorage, root: Path
) -> None:
    (root / "42/42.json").mkdir(parents=True)
    (root / "43").write_text("a file where a folder belongs")
    for key in ("42", "43"):
        with pytest.raises(SchemaError, match=key):
            await storage.read(key)
        with pytest.raises(SchemaError, match=key):
            await storage.write(key, "1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
async def test_a_pipe_in_the_place_of_a_file_is_a_schema_error_and_nobody_waits_for_it(
    storage: FileStorage, root: Path
) -> None:
    (root / "42").mkdir()
    os.mkfifo(root / "42/42.json")
    async with asyncio.timeout(10.0):
        for call in (storage.read("42"), storage.write("42", "1"), storage.delete("42"), storage.purge()):
            with pytest.raises(SchemaError, match="42"):
                await call
        await storage.write("142", "1")

    assert stat.S_ISFIFO((root / "42/42.json").stat().st_mode)


DENIED = """
    import asyncio, os, sys
    from bot_session import SchemaError, UnavailableError
    from bot_session_storage_file import FileStorage

    async def main(root):
        async with FileStorage(root) as storage:
            await storage.write("42", '"secret"')
            await storage.write("43", '"secret"')
            os.chmod(f"{root}/42/42.json", 0)
            os.chmod(f"{root}/43", 0o500)
            if os.getuid() == 0:
                os.chmod(root, 0o755)
                for folder, _, names in os.walk(root):
                    for path in [folder, *(os.path.join(folder, name) for name in names)]:
                        os.chown(path, 65534, 65534)
                os.setuid(65534)
            for call in (storage.read("42"), storage.write("42", "1"), storage.delete("42"), storage.write("43", "1"),
                         storage.delete("43"), storage.purge()):
                try:
                    print("returned", await call)
                except SchemaError as error:
                    print(type(error.__cause__).__name__)

    asyncio.run(main(sys.argv[1]))
"""


def test_missing_rights_are_a_schema_error_and_nothing_is_overwritten(public: Path) -> None:
    root = public / "sessions"
    out, _ = python(DENIED, root).communicate(timeout=30)

    assert out.split() == ["PermissionError"] * 6
    assert [key for key in ("42", "43") if (root / key / f"{key}.json").exists()] == ["42", "43"]


FULL = """
    import asyncio, resource, sys
    from bot_session import UnavailableError, Write
    from bot_session_storage_file import FileStorage

    async def main(root):
        async with FileStorage(root) as storage:
            await storage.write("42", '"old"')
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            for call in (storage.write("42", '"' + "x" * 100_000 + '"'), storage.write_many([Write("42", "9" * 9999)])):
                try:
                    print("returned", await call)
                except UnavailableError as error:
                    print(error.outcome_unknown, error.__cause__.strerror)
            await storage.write("43", '"small"')
            print((await storage.read("42")).value)

    asyncio.run(main(sys.argv[1]))
"""


async def test_a_disk_that_takes_no_more_is_an_error_and_the_old_document_stays(root: Path) -> None:
    out, _ = python(FULL, root).communicate(timeout=30)

    assert out.splitlines() == [f"False {os.strerror(errno.EFBIG)}"] * 2 + ['"old"']
    assert files(root) == {"42/42.json": '"old"', "43/43.json": '"small"'}


async def test_a_folder_that_has_gone_is_an_error_and_never_a_miss(storage: FileStorage, root: Path) -> None:
    await storage.write("42", "1")
    root.rename(root.with_name("elsewhere"))
    for call in (storage.read("42"), storage.write("42", "2"), storage.read_many(["42"]), keys_of(storage)):
        with pytest.raises(UnavailableError):
            pytest.fail(f"returned {await call!r}")

    assert not root.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second disk")
async def test_a_disk_that_was_unmounted_is_an_error_and_never_a_miss(tmp_path: Path) -> None:
    first, second = tmp_path / "first", Path(f"/dev/shm/bot-session-{os.getpid()}")
    first.mkdir()
    second.mkdir()
    link = tmp_path / "sessions"
    link.symlink_to(first)
    try:
        async with FileStorage(link) as storage:
            await storage.write("42", "1")
            link.unlink()
            link.symlink_to(second)
            with pytest.raises(UnavailableError, match="unmounted"):
                await storage.read("42")
            with pytest.raises(UnavailableError, match="unmounted"):
                await storage.write("42", "2")

        assert files(second) == {}
    finally:
        second.rmdir()


async def test_a_link_that_leads_nowhere_is_an_error_and_never_a_miss(storage: FileStorage, root: Path) -> None:
    for key, shard in (("42", "42"), ("1:2", ":2")):
        plant(root, f"{shard}/{key}.json", "1")
        (root / shard).rename(root.parent / shard)
        (root / shard).symlink_to(root.parent / shard)
        assert await storage.read(key) is not None
        assert await storage.read(f"9{key}") is None
        (root.parent / shard).rename(root.parent / f"unmounted{shard}")
        for call in (
            storage.read(key),
            storage.read_many([key]),
            storage.write(key, "2"),
            storage.write(key, "2", match=ABSENT),
            storage.delete(key),
            storage.touch(key, 60),
            storage.purge(),
            keys_of(storage),
        ):
            with pytest.raises(UnavailableError, match="leads nowhere") as caught:
                pytest.fail(f"returned {await call!r}")
            assert not caught.value.outcome_unknown
        (root / shard).unlink()


async def test_a_key_too_long_for_the_path_is_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x" * 240] * 5)
    async with FileStorage(deep) as storage:
        with pytest.raises(InvalidKeyError, match="too long for this disk"):
            await storage.write("É" * 512, "1")
        await storage.write("É" * 256, "1")

        assert await keys_of(storage) == ["É" * 256]


async def test_create_false_wants_the_folder(root: Path) -> None:
    with pytest.raises(SchemaError, match="No such file"):
        await FileStorage(root, create=False).open()
    root.parent.joinpath("file").write_text("")
    with pytest.raises(SchemaError, match="Not a directory"):
        await FileStorage(root.parent / "file").open()

    assert not root.exists()


# ---------------------------------------------------------------------- durability


@pytest.mark.parametrize("count", [1, 5, 100])
async def test_what_the_disk_did_not_take_is_an_error_and_leaves_the_old_file(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    keys = [f"{i}42" for i in range(count)]
    await storage.write_many([Write(key, '"old"') for key in keys])

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(UnavailableError) as caught:
            await storage.write_many([Write(key, '"new"') for key in keys])

    assert not caught.value.outcome_unknown
    assert files(root) == {f"42/{key}.json": '"old"' for key in keys}, "nothing half done stays either"


@pytest.mark.parametrize("count", [1, 5, 100])
async def test_a_disk_that_is_full_before_the_last_file_of_a_batch_takes_none_of_it(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    keys = [f"{i}42" for i in range(count)]
    real_write = os.write

    def write(handle: int, data: bytes) -> int:
        if bytes(data) == b'"last"':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(handle, data)

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        with pytest.raises(UnavailableError, match="No space left") as caught:
            await storage.write_many([*(Write(key, '"new"') for key in keys[1:]), Write(keys[0], '"last"')])

    assert (False, keys[0]) == (caught.value.outcome_unknown, caught.value.key)
    assert {} == files(root)


@pytest.mark.parametrize(("count", "unknown"), [(1, False), (5, True), (100, True)])
async def test_a_file_that_gets_no_name_fails_its_batch_which_may_have_happened(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, count: int, unknown: bool
) -> None:
    keys = [f"{i}42" for i in range(count)]
    real_replace = os.replace

    def replace(source: str, target: str) -> None:
        if target.endswith("/042.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), target)
        real_replace(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", replace)
        with pytest.raises(UnavailableError, match=r"042\.json") as caught:
            await storage.write_many([Write(key, '"new"') for key in keys])

    assert (unknown, "042") == (caught.value.outcome_unknown, caught.value.key)
    assert files(root) == {f"42/{key}.json": '"new"' for key in keys[1:]}


async def test_a_large_batch_tells_the_results_apart_and_keeps_the_order_of_a_key(
    storage: FileStorage, root: Path
) -> None:
    await storage.write_many([Write(f"{i}7", '"old"') for i in range(400)])
    (root / "07/07.json").write_text("{")
    batch = [Write(f"{i}7", None) for i in range(200)]  # all that is in many folders
    batch += [Write(f"{i}7", '"new"', match=Version('"old"' if i % 2 else '"other"')) for i in range(200, 400)]
    batch += [Write(f"{i}7", '"again"') for i in range(100)]
    batch += [Write("x07", '"x"'), Write("07", "1", match=ABSENT)]
    (root / "97/3997.json").unlink()
    (root / "97/3997.json").mkdir()

    results = await storage.write_many(batch)

    assert [True] * 200 == results[:200]
    for i, result in zip(range(200, 400), results[200:400], strict=True):
        if i == 399:
            assert isinstance(result, SchemaError)
        elif i % 2:
            assert '"new"' == result
        else:
            assert isinstance(result, ConflictError)
        assert not isinstance(result, StorageError) or (f"{i}7", "write_many") == (result.key, result.operation)
    assert ['"again"'] * 100 + ['"x"'] == results[400:501]
    assert isinstance(results[501], ConflictError)
    expected = {f"{i}7": '"again"' for i in range(100)} | {"x07": '"x"'}
    expected |= {f"{i}7": '"new"' if i % 2 else '"old"' for i in range(200, 399)}
    assert expected == {Path(path).stem: value for path, value in files(root).items()}


async def test_the_document_is_on_the_disk_before_its_name_and_both_before_the_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{handle}").replace(str(root), "root"))
        real_sync(handle)

    def replace(source: str, target: str) -> None:
        seen.append(f"-> {target}".replace(str(root), "root"))
        real_replace(source, target)

    async with FileStorage(root) as storage:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        await storage.write("42", "1")
        written = [path.partition(".bot-session-")[0] for path in seen]
        seen.clear()
        await storage.write_many([Write(f"{i}42", "1") for i in range(3)])
        together = list(seen)
        batch = [path for path in seen if path == "root/42"]
        seen.clear()
        await storage.delete("42")
        deleted = list(seen)
        seen.clear()
        await storage.touch("042", 60)
        touched = [path.partition(".bot-session-")[0] for path in seen]
        seen.clear()
        await FileStorage(root, fsync=False).write("43", "1")

    assert written[:2] == ["root/42/", "-> root/42/42.json"]
    assert sorted(written[2:]) == ["root", "root/42"]
    assert batch == ["root/42"], "the folder is synced once for the batch"
    assert all(path.startswith("-> ") for path in together[3:6]), "all files are on the disk before any gets its name"
    assert deleted == ["root/42"]
    assert touched == ["root/42/", "-> root/42/042.json", "root/42"]
    assert seen == ["-> root/43/43.json"]


KILLED = """
    import asyncio, sys
    from bot_session_storage_file import FileStorage

    async def main(root, name):
        async with FileStorage(root) as storage:
            for n in range(1, 1_000_000):
                key = f"{name}{n % 5}"
                await storage.write(key, f'"{n:07}{"x" * 400_000}"')
                print(key, n, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_while_writing_every_acknowledged_document_is_there_and_none_is_torn(
    storage: FileStorage, root: Path
) -> None:
    for turn in range(3):
        writers = [python(KILLED, root, name) for name in ("a", "b")]
        acknowledged: dict[str, int] = {}
        for writer in writers:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(20 + turn)]
            writer.kill()  # in the midst of a write
            lines += writer.stdout.readlines()
            writer.wait(timeout=10)
            writer.communicate()
            acknowledged |= {key: int(n) for key, n in (line.split() for line in lines if line.endswith("\n"))}
        found = {key: json.loads(record.value) async for key, record in storage.read_all_entries()}

        assert acknowledged.keys() <= found.keys()
        for key, value in found.items():
            n = int(value[:7])
            assert n in {acknowledged[key], acknowledged[key] + 5}, "neither what was acknowledged nor what came next"
            assert value[7:] == "x" * 400_000
        await storage.delete_many(list(found))


async def test_what_killed_processes_leave_is_swept_by_purge_and_not_listed(storage: FileStorage, root: Path) -> None:
    await storage.write("A" * 200, "1")
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir() and path.name != ".locks")):
        (folder / ".bot-session-x1y2z3").write_text('{"hal')
        (folder / "theirs.tmp").write_text("theirs")

    assert await keys_of(storage) == ["A" * 200]
    assert await storage.purge() == 0
    assert [path for path in files(root) if ".bot-session-" in path] == []
    assert len([path for path in files(root) if path.endswith("theirs.tmp")]) == 4


async def test_purge_deletes_what_has_expired_and_counts_it(storage: FileStorage, root: Path, clock: Clock) -> None:
    await storage.write_many([Write(str(n), "1", ttl=n) for n in range(1, 6)] + [Write("ever", "1")])
    clock.now += 3

    assert await storage.purge() == 3
    assert await storage.purge() == 0
    assert list(files(root)) == ["4/4.json", "5/5.json", "er/ever.json"]


# ---------------------------------------------------------------------- several processes


INCREMENTS = """
    import asyncio, sys
    from bot_session import ConflictError
    from bot_session_storage_file import FileStorage

    async def main(root, times):
        async with FileStorage(root) as storage:
            print("ready", flush=True)
            sys.stdin.readline()
            for _ in range(int(times)):
                while True:
                    record = await storage.read("k")
                    try:
                        await storage.write("k", str(int(record.value) + 1), match=record.version)
                        break
                    except ConflictError:
                        continue

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_lose_no_increment(storage: FileStorage, root: Path) -> None:
    await storage.write("k", "0")
    workers = [python(INCREMENTS, root, 100) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
    record = await storage.read("k")

    assert record is not None
    assert record.value == "200"


async def hold_lock_of(storage: FileStorage, root: Path, key: str) -> int:
    """Take the lock of a key as another process would."""
    await storage.write(key, '"old"')
    (lock,) = (root / ".locks").iterdir()
    handle = os.open(lock, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


async def test_a_lock_that_another_process_keeps_is_an_error_in_time_and_readers_do_not_wait(root: Path) -> None:
    async with FileStorage(root, timeout=0.1) as storage:
        handle = await hold_lock_of(storage, root, "42")
        for call in (storage.write("42", "1"), storage.delete("42"), storage.touch("42", 60), keys_of(storage)):
            with pytest.raises(UnavailableError, match="lock") as caught:
                await call
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert not caught.value.outcome_unknown
        record = await storage.read("42")
        os.close(handle)
        await storage.write("42", '"new"')

    assert record is not None
    assert record.value == '"old"'
    assert files(root) == {"42/42.json": '"new"'}


async def test_a_batch_waits_only_where_another_process_keeps_the_lock(root: Path) -> None:
    async with FileStorage(root, timeout=60.0) as storage:
        handle = await hold_lock_of(storage, root, "42")
        others = [Write(f"{i}", '"new"') for i in range(10, 30)]
        batch = asyncio.create_task(storage.write_many([others[0], Write("42", '"new"'), *others[1:]]))
        free = [root / write.key / f"{write.key}.json" for write in others if lock_of(write.key) != lock_of("42")]
        async with asyncio.timeout(20):
            while not all(path.exists() for path in free):  # noqa: ASYNC110 - threads write them
                await asyncio.sleep(0.01)
        waiting = not batch.done()
        old = (root / "42/42.json").read_text()
        os.close(handle)
        results = await batch

    assert waiting
    assert old == '"old"'
    assert results == ['"new"'] * 21
    assert set(files(root).values()) == {'"new"'}
    assert len(files(root)) == 21


async def test_a_write_that_was_cancelled_while_it_waited_never_happens(storage: FileStorage, root: Path) -> None:
    handle = await hold_lock_of(storage, root, "42")
    tasks = [asyncio.create_task(storage.write("42", '"cancelled"')) for _ in range(3)]
    done, _ = await asyncio.wait(tasks, timeout=0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    os.close(handle)
    await storage.close()  # which waits for the threads

    assert not done
    assert files(root) == {"42/42.json": '"old"'}


READ_ONLY = """
    import asyncio, os, sys
    from bot_session import SchemaError
    from bot_session_storage_file import FileStorage

    async def main(root):
        async with FileStorage(root, create=False) as storage:
            await storage.read("42")
            if os.getuid() == 0:
                os.setuid(65534)
            print((await storage.read("42")).value, [key async for key in storage.read_all_keys()])
            try:
                print("returned", await storage.write("42", "2"))
            except SchemaError as error:
                print(type(error.__cause__).__name__)

    asyncio.run(main(sys.argv[1]))
"""


def test_a_read_only_folder_can_be_read_and_listed(public: Path) -> None:
    root = public / "sessions"
    plant(root, "42/42.json", "1").chmod(0o444)
    for folder in (root / "42", root):
        folder.chmod(0o555)
    out, _ = python(READ_ONLY, root).communicate(timeout=30)

    assert out.splitlines() == ["1 ['42']", "PermissionError"]


# ---------------------------------------------------------------------- URLs and options


@pytest.mark.parametrize(("url", "folder"), [
    ("file:sessions", "{cwd}/sessions"),
    ("file:data/my%20bot", "{cwd}/data/my bot"),
    ("file:///var/lib/bot", "/var/lib/bot"),
    ("file:/var/lib/bot", "/var/lib/bot"),
])  # fmt: skip
def test_a_url_names_the_folder(url: str, folder: str) -> None:
    assert repr(FileStorage.from_url(url)) == f"<FileStorage {folder.format(cwd=os.getcwd())}>"


@pytest.mark.parametrize("url", ["file://sessions", "file://host/sessions", "file:", "file:sessions?x=1"])
def test_a_url_that_names_no_folder_says_how_to_write_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="file:///"):
        FileStorage.from_url(url)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_the_timeout_is_finite(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        FileStorage(timeout=timeout)


async def test_reads_and_writes_that_the_system_cuts_short_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.read, os.write
    monkeypatch.setattr(os, "read", lambda handle, size: read(handle, min(size, 7)))
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    document = json.dumps({"pizzas": list(range(50))})
    async with FileStorage(tmp_path / "sessions") as storage:
        await storage.write("42", document)

        found = await storage.read("42")

    assert found is not None
    assert json.loads(document) == json.loads(found.value)
