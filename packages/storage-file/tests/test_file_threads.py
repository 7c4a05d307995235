"""What goes on in threads while callers give up, storages close, processes fork, and others keep locks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest
from bot_session import UnavailableError, Write

from bot_session_storage_file import FileStorage
from bot_session_storage_file._crew import Crew, Job
from bot_session_storage_file._paths import lock_of
from bot_session_storage_file._trip import Trip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

STUCK, FREE = "42", "17"  # which have locks of their own
PATIENCE = 20.0


class Disk:
    """Files get their names when `goes_on` is set."""

    def __init__(self) -> None:
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self._replace = os.replace

    def replace(self, source: str, target: str) -> None:
        self.reached.set()
        assert self.goes_on.wait(PATIENCE)
        self._replace(source, target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "replace", disk.replace)
    yield disk
    disk.goes_on.set()


async def begun(disk: Disk, storage: FileStorage) -> asyncio.Task[object]:
    """Return a write that is under way in a thread."""
    task: asyncio.Task[object] = asyncio.create_task(storage.write("42", '"new"'))
    assert await asyncio.to_thread(disk.reached.wait, PATIENCE)
    return task


def keep_lock(root: Path) -> int:
    """Take the lock of `STUCK` as another process would; closing it lets go."""
    (root / ".locks").mkdir(exist_ok=True)
    handle = os.open(root / ".locks" / str(lock_of(STUCK)), os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


# ---------------------------------------------------------------------- callers that give up


async def test_whoever_gives_up_a_write_that_has_begun_goes_on_when_it_has_ended(root: Path, disk: Disk) -> None:
    async with FileStorage(root) as storage:
        task = await begun(disk, storage)
        for _ in range(2):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.05)
            assert not done
        disk.goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (root / "42/42.json").exists()


async def test_what_fails_when_its_caller_has_given_up_is_reported_to_nobody(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    async with FileStorage(root) as storage:
        task = await begun(disk, storage)
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
        monkeypatch.setattr(disk, "_replace", fail)
        disk.goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    del task
    gc.collect()

    assert [] == reports


async def test_a_hung_disk_holds_whoever_gives_up_no_longer_than_the_timeout(root: Path, disk: Disk) -> None:
    async with FileStorage(root, timeout=0.1) as storage:
        task = await begun(disk, storage)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=PATIENCE)

        assert done
        assert task.cancelled()
        assert not disk.goes_on.is_set()
        disk.goes_on.set()


async def test_a_write_that_is_given_up_before_it_has_begun_never_happens(root: Path, disk: Disk) -> None:
    async with FileStorage(root, timeout=60.0) as storage:
        first = await begun(disk, storage)
        others = [asyncio.create_task(storage.write(f"{i}42", '"new"')) for i in range(20)]
        await asyncio.sleep(0)
        for task in others:
            task.cancel()
        disk.goes_on.set()
        results = await asyncio.gather(*others, return_exceptions=True)
        await first

    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert ["42.json"] == [path.name for path in (root / "42").iterdir()]


# ---------------------------------------------------------------------- closing and opening


async def test_closing_in_the_midst_of_a_batch_waits_for_that_batch_and_for_no_thread_more(
    root: Path, disk: Disk
) -> None:
    before = set(threading.enumerate())
    storage = FileStorage(root, timeout=2 * PATIENCE)
    await storage.open()
    write = asyncio.create_task(storage.write_many([Write(str(i), "1") for i in range(100)]))
    assert await asyncio.to_thread(disk.reached.wait, PATIENCE)
    closing = asyncio.create_task(storage.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    disk.goes_on.set()
    async with asyncio.timeout(PATIENCE):
        await closing

    assert ["1"] * 100 == await write
    assert [] == [thread.name for thread in set(threading.enumerate()) - before if "bot-session" in thread.name]


async def test_closing_needs_no_thread_to_wait_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    storage = FileStorage(root)
    await storage.write("42", "1")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    await storage.close()


async def test_it_can_be_opened_again_while_it_is_closing(root: Path, disk: Disk) -> None:
    storage = FileStorage(root)
    await storage.open()
    write = await begun(disk, storage)
    closing, opening = asyncio.create_task(storage.close()), asyncio.create_task(storage.open())
    await asyncio.sleep(0.05)
    disk.goes_on.set()
    await asyncio.gather(write, closing, opening)

    assert ["1"] * 4 == await storage.write_many([Write(str(i), "1") for i in range(4)])
    await storage.close()


FORKED = """
    import asyncio, os, sys
    from bot_session import ClosedError, Write
    from bot_session_storage_file import FileStorage

    storage = FileStorage(sys.argv[1])
    writes = [Write(str(i), "1") for i in range(60)]

    async def child():
        for call in (storage.read("1"), storage.write_many(writes)):
            try:
                print("returned", await call)
            except ClosedError as error:
                print(error.operation, "forked" in str(error))
        await storage.close()
        await storage.open()
        print(await storage.write_many(writes) == ["1"] * 60)

    asyncio.run(storage.write_many(writes))
    storage._folder._locks._threads[3].acquire()  # as if a thread were at work
    pid = os.fork()
    if pid == 0:
        asyncio.run(asyncio.wait_for(child(), 10))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_is_told_to_open_it_again_and_can(root: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FORKED), str(root)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    assert ["read True", "write_many True", "True"] == out.splitlines()


# ---------------------------------------------------------------------- locks that others keep


async def test_a_lock_that_another_process_keeps_delays_no_other_key(root: Path) -> None:
    async with FileStorage(root, timeout=60.0) as storage:
        handle = keep_lock(root)
        stuck = [asyncio.create_task(storage.write(f"{i}{STUCK}", "1")) for i in range(64)]
        await asyncio.wait(stuck, timeout=0.1)
        async with asyncio.timeout(PATIENCE):
            await storage.write(FREE, "1")
            await storage.read(STUCK)
            assert ["1"] == await storage.write_many([Write(FREE, "1")])
        assert not any(task.done() for task in stuck)
        os.close(handle)

        assert ["1"] * 64 == await asyncio.gather(*stuck)


async def test_the_time_for_a_lock_counts_from_the_call_however_many_wait_for_it(root: Path) -> None:
    async with FileStorage(root, timeout=0.5) as storage:
        handle = keep_lock(root)
        started = time.monotonic()
        results = await asyncio.gather(*(storage.write(f"{i}{STUCK}", "1") for i in range(64)), return_exceptions=True)
        passed = time.monotonic() - started
        os.close(handle)

    assert all(isinstance(result, UnavailableError) for result in results)
    assert passed < 3 * 0.5


async def test_in_a_batch_only_those_fail_whose_lock_another_process_keeps(root: Path) -> None:
    keys = [STUCK, *(str(i) for i in range(10, 42)), f"1{STUCK}"]
    async with FileStorage(root, timeout=0.1) as storage:
        handle = keep_lock(root)
        results = await storage.write_many([Write(key, "1") for key in keys])
        os.close(handle)
        found = await storage.read_many(keys)

    for key, result in zip(keys, results, strict=True):
        if lock_of(STUCK) != lock_of(key[-2:]):
            assert "1" == result
            continue
        assert isinstance(result, UnavailableError)
        assert ("write_many", key, False) == (result.operation, result.key, result.outcome_unknown)
        assert f"/.locks/{lock_of(STUCK)} was not free" in str(result)
        assert key not in found


def batch(*keys: str) -> list[Write]:
    return [Write(key, "1") for key in keys]


async def test_a_batch_waits_for_another_no_longer_than_the_timeout(root: Path, disk: Disk) -> None:
    async with FileStorage(root, timeout=0.3) as storage:
        first = asyncio.create_task(storage.write_many(batch("10", "11")))
        assert await asyncio.to_thread(disk.reached.wait, PATIENCE)
        with pytest.raises(UnavailableError, match=r"other batches were being written for more than 0\.3 s") as caught:
            await storage.write_many(batch("20", "21"))
        disk.goes_on.set()
        await first
        found = await storage.read_many(["10", "11", "20", "21"])

    assert {"10", "11"} == found.keys()
    assert not caught.value.outcome_unknown


async def test_a_batch_waits_for_others_before_it_writes_anything_and_never_in_between(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileStorage(root) as storage:
        turns, together = list[bool](), storage._folder.together

        def note(trip: Trip) -> AbstractContextManager[None]:
            turns.append(trip.wrote)
            return together(trip)

        monkeypatch.setattr(storage._folder, "together", note)
        await storage.write_many([*batch(*map(str, range(300))), Write("7", "2")])

    assert [False] == turns


async def test_what_is_left_of_a_batch_and_refused_says_why_and_that_it_was_not_written(root: Path) -> None:
    async with FileStorage(root, timeout=0.5) as storage:
        handle = keep_lock(root)
        writing = asyncio.create_task(storage.write_many(batch(FREE, STUCK, f"1{STUCK}")))
        while not await storage.has(FREE):  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.01)
        with storage._folder.together(Trip("another")):
            os.close(handle)
            done, *left = await writing

    assert "1" == done
    for result in left:
        assert isinstance(result, UnavailableError)
        assert "other batches were being written" in str(result)
        assert not result.outcome_unknown


async def test_a_batch_that_is_given_up_as_it_waits_for_another_never_happens(root: Path, disk: Disk) -> None:
    async with FileStorage(root, timeout=PATIENCE) as storage:
        first = asyncio.create_task(storage.write_many(batch("10", "11")))
        assert await asyncio.to_thread(disk.reached.wait, PATIENCE)
        given_up = asyncio.create_task(storage.write_many(batch("20", "21")))
        await asyncio.wait([given_up], timeout=0.05)
        given_up.cancel()
        await asyncio.wait([given_up], timeout=0.05)
        disk.goes_on.set()
        await first
        await asyncio.wait([given_up])
        found = await storage.read_many(["10", "11", "20", "21"])

    assert given_up.cancelled()
    assert {"10", "11"} == found.keys()


async def test_a_lock_that_was_waited_for_in_vain_is_not_waited_for_again_until_it_was_free(root: Path) -> None:
    async with FileStorage(root, timeout=0.5) as storage:
        handle = keep_lock(root)
        with pytest.raises(UnavailableError, match="lock"):
            await storage.write(STUCK, "1")
        started = time.monotonic()
        for _ in range(5):
            with pytest.raises(UnavailableError, match="lock"):
                await storage.write(STUCK, "1")
        passed = time.monotonic() - started
        os.close(handle)
        await storage.write(STUCK, "1")
        handle = keep_lock(root)
        write = asyncio.create_task(storage.write(STUCK, "2"))
        await asyncio.wait([write], timeout=0.05)
        os.close(handle)

        assert "2" == await write
    assert passed < 5 * 0.5


async def test_listing_and_purging_go_on_when_a_lock_becomes_free(root: Path) -> None:
    keys = [str(i) for i in range(10, 60)]
    clock = [1_700_000_000.0]
    async with FileStorage(root, timeout=60.0, clock=lambda: clock[0]) as storage:
        await storage.write_many([Write(key, "1", ttl=60 if key < "30" else None) for key in keys])

        async def keys_of() -> list[str]:
            return sorted([key async for key in storage.read_all_keys(batch_size=7)])

        handle = keep_lock(root)
        listing = asyncio.create_task(keys_of())
        await asyncio.wait([listing], timeout=0.05)
        assert not listing.done()
        os.close(handle)
        assert keys == await listing

        clock[0] += 60
        handle = keep_lock(root)
        purging = asyncio.create_task(storage.purge())
        await asyncio.wait([purging], timeout=0.05)
        assert not purging.done()
        os.close(handle)
        assert 20 == await purging
        assert keys[20:] == await keys_of()


# ---------------------------------------------------------------------- how many threads, and for how long


class Workers:
    """The threads that do what storages are asked for, but for those that were there before."""

    def __init__(self) -> None:
        self._before: set[threading.Thread] = set()
        self._before.update(self.threads())

    def threads(self) -> list[threading.Thread]:
        named = [thread for thread in threading.enumerate() if re.fullmatch(r"bot-session-file-\d+", thread.name)]
        return [thread for thread in named if thread not in self._before]


@pytest.fixture
def crew() -> Workers:
    return Workers()


async def test_one_call_after_the_other_takes_one_thread_and_many_at_once_take_eight(
    root: Path, disk: Disk, crew: Workers
) -> None:
    disk.goes_on.set()
    async with FileStorage(root) as storage:
        for i in range(20):
            await storage.write(str(i), "1")
        one = len(crew.threads())
        disk.goes_on.clear()
        writes = [asyncio.create_task(storage.write(f"{i}{i:02}", "1")) for i in range(20)]
        await asyncio.sleep(0.05)
        many = len(crew.threads())
        disk.goes_on.set()
        await asyncio.gather(*writes)
        again = await storage.read_many([f"{i}{i:02}" for i in range(20)])

    assert (1, 8, 20) == (one, many, len(again))
    assert [] == crew.threads()


async def test_a_storage_that_nobody_has_closed_takes_its_threads_along(root: Path, crew: Workers) -> None:
    storage = FileStorage(root)
    await storage.open()
    await storage.write("42", "1")
    (thread,) = crew.threads()
    del storage
    async with asyncio.timeout(PATIENCE):
        while thread.is_alive():  # It may have the last job at hand when the garbage is collected.
            gc.collect()
            await asyncio.to_thread(thread.join, 0.01)


def test_a_thread_whose_event_loop_is_gone_serves_the_next_one(root: Path, disk: Disk, crew: Workers) -> None:
    storage = FileStorage(root, timeout=0.05)

    async def give_up() -> None:
        task = await begun(disk, storage)
        task.cancel()
        await asyncio.wait([task])

    async def go_on() -> None:
        disk.goes_on.set()
        async with asyncio.timeout(PATIENCE):
            assert ["1"] * 30 == await asyncio.gather(*(storage.write(str(i), "1") for i in range(30)))
        await storage.close()

    asyncio.run(give_up())
    (thread,) = crew.threads()
    disk.goes_on.set()
    while not (root / "42/42.json").exists():
        time.sleep(0.001)
    thread.join(0.05)  # It has nobody to tell.
    assert thread.is_alive()
    asyncio.run(go_on())


async def test_without_a_thread_to_be_had_a_call_says_so_and_with_one_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with FileStorage(root) as storage:
        await storage.write("42", "1")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            found = await asyncio.gather(*(storage.read("42") for _ in range(30)))
            storage_without = FileStorage(root)
            with pytest.raises(UnavailableError, match="no thread can be started: can't start new thread"):
                await storage_without.open()

    assert ["1"] * 30 == [record and record.value for record in found]


def test_who_comes_to_a_crew_that_was_dismissed_finds_nobody_and_leaves_nothing() -> None:
    def work() -> None: ...

    kept = weakref.ref(work)
    dismissed, job = Crew("bot-session-file-test", 2), Job(work)
    dismissed.dismiss()
    dismissed.give(job)
    del work

    assert not dismissed.is_there
    assert job.call_off()
    assert kept() is None


HUNG = """
    import asyncio, os, sys, threading
    from bot_session import Write
    from bot_session_storage_file import FileStorage

    writes = [Write(str(i), "1") for i in range(int(sys.argv[2]))]
    hung = threading.Semaphore(0)

    def hang(*_):
        hung.release()
        threading.Event().wait()

    async def main():
        storage = FileStorage(sys.argv[1], timeout=0.05)
        await storage.open()
        write = asyncio.create_task(storage.write_many(writes))
        await asyncio.to_thread(hung.acquire)
        write.cancel()
        await asyncio.wait([write])
        await storage.close()
        print("given up", write.cancelled())

    os.replace = hang
    asyncio.run(main())
"""


@pytest.mark.parametrize("size", [1, 200])
def test_a_program_ends_though_a_disk_hangs(root: Path, size: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HUNG), str(root), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert ("given up True\n", "", 0) == (done.stdout, done.stderr, done.returncode)


async def test_a_large_batch_is_made_by_several_threads_and_by_one_if_there_are_no_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, replace, names = threading.Thread.start, os.replace, set[str]()

    def note(source: str, target: str) -> None:
        names.add(re.sub(r"\d+$", "", threading.current_thread().name))
        time.sleep(0.001)
        replace(source, target)

    def refuse_helpers(thread: threading.Thread) -> None:
        if "helper" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(os, "replace", note)
    writes = [Write(str(i), "1") for i in range(200)]
    async with FileStorage(root) as storage:
        assert ["1"] * 200 == await storage.write_many(writes)
    assert {"bot-session-file-", "bot-session-file-helper-"} == names
    names.clear()
    monkeypatch.setattr(threading.Thread, "start", refuse_helpers)
    async with FileStorage(root) as storage:
        assert ["1"] * 200 == await storage.write_many(writes)
    assert {"bot-session-file-"} == names


@pytest.mark.parametrize("size", [1, 20, 200])
async def test_an_error_that_nobody_reckons_with_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """And reaches the caller when no thread is at the batch any more."""
    calls = iter(range(10**6))
    started = time.time()

    def clock() -> float:
        if next(calls) == size // 2:
            raise ZeroDivisionError
        return started

    async with FileStorage(root, clock=clock) as storage:
        with pytest.raises(ZeroDivisionError):
            await storage.write_many([Write(str(i), "1", ttl=60.0) for i in range(size)])
        left = [path for path in root.rglob("*") if path.is_file() and path.parent.name != ".locks"]

        assert [] == left
        assert ["1"] * size == await storage.write_many([Write(str(i), "1") for i in range(size)])


async def test_a_clock_that_stops_raises_and_does_not_keep_its_caller_waiting(root: Path) -> None:
    async with FileStorage(root, clock=iter([1.0]).__next__) as storage:
        await storage.write("42", "1", ttl=60.0)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await storage.read("42")
