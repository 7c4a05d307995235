"""Worker threads: begun as they are needed, and never waited for longer than somebody wants."""

from __future__ import annotations

import errno
import threading
import weakref
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Crew", "Job"]

_T = TypeVar("_T")


class Job(Generic[_T]):
    """
    Work for a thread: the first that comes by does it, unless it was called off.

    Args:
        work: What to do.

    Attributes:
        outcome: What came of it.
        error: What it raised, if it did.
    """

    __slots__ = ("_claimed", "_work", "error", "outcome")

    _work: Callable[[], _T] | None

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._claimed = threading.Lock()
        self.outcome: Any = None
        self.error: BaseException | None = None

    def call_off(self) -> bool:
        """Say whether nobody has begun with it: then nobody will, nor keep what it would have taken."""
        if not self._claimed.acquire(blocking=False):
            return False
        self._work = None
        return True

    def do(self) -> None:
        """Do it, in a thread, unless it was called off."""
        work = self._work
        if work is not None and self._claimed.acquire(blocking=False):
            try:
                self.outcome = work()
            except StopIteration as error:  # No future takes it; PEP 479 makes the same of it for generators.
                self.error = RuntimeError("what was done in a thread raised StopIteration")
                self.error.__cause__ = error
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
                self.error = error

    def report(self) -> None:
        """Tell whoever waits that it is over."""
        raise NotImplementedError


class Crew:
    """
    Threads that take one job after the other.

    They are not a `ThreadPoolExecutor`, whose way there and back takes longer than reading a file, and for which a
    program waits when it ends, even if a disk hangs.

    Args:
        name: What the threads are called.
        most: How many there may be.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._idle: deque[None] = deque()  # One for each thread that has nothing to do, or a few more if all are there.
        self._threads: list[threading.Thread] = []
        self._hiring = threading.Lock()
        self._dismissed = False
        weakref.finalize(self, _dismiss, self._jobs, self._threads).atexit = False

    def give(self, job: Job[Any]) -> None:
        """
        Have a job done by the first thread that is free.

        Raises:
            OSError: There is none, and none can be started.
        """
        try:
            self._idle.pop()
        except IndexError:
            self._hire()
        self._jobs.put(job)

    def dismiss(self) -> None:
        """Let the threads end when they have done what they were given; no others follow them."""
        with self._hiring:
            self._dismissed = True
            _dismiss(self._jobs, self._threads)

    @property
    def is_there(self) -> bool:
        """Whether some of the threads have not ended."""
        return any(thread.is_alive() for thread in self._threads)

    def _hire(self) -> None:
        if len(self._threads) >= self._most:
            return
        with self._hiring:
            number = len(self._threads)
            if number >= self._most or self._dismissed:
                return
            thread = threading.Thread(
                target=_serve, args=(self._jobs, self._idle), name=f"{self._name}-{number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                if not self._threads:
                    raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error
            else:
                self._threads.append(thread)


def _serve(jobs: SimpleQueue[Job[Any] | None], idle: deque[None]) -> None:
    """Do one job after the other."""
    while (job := jobs.get()) is not None:
        job.do()
        idle.append(None)  # Before that: whoever hears that it is over may have more to do.
        job.report()
        del job  # And what it holds: the next one may be long in coming.


def _dismiss(jobs: SimpleQueue[Job[Any] | None], threads: list[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)
