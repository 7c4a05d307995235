"""A bot that meets a hardship of its own process: run by test_faults_hard.py, as ``hardship.py URL HARDSHIP FOLDER``."""

import asyncio
import concurrent.futures.thread  # noqa: F401 - once it is somebody else, it can import nothing from root's Python
import json
import os
import resource
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bot_session import SchemaError, Sessions, UnavailableError, open_storage

KEYS = [str(key) for key in range(8)]


@dataclass
class Counter:
    n: int = 0


def add_one(counter: Counter) -> None:
    counter.n += 1


@contextmanager
def no_descriptors(folder):
    """Leave no file descriptor free."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        yield
    for descriptor in taken:
        os.close(descriptor)


@contextmanager
def modes(folder, *, files=None, folders=None):
    """Give all files, or all folders, of the storage other rights for a while."""
    paths = [path for path in (folder, *folder.rglob("*")) if (files if path.is_file() else folders) is not None]
    before = [path.stat().st_mode for path in paths]
    for path in reversed(paths):
        path.chmod(files if path.is_file() else folders)
    yield
    for path, mode in zip(paths, before, strict=True):
        path.chmod(mode)


HARDSHIPS = {
    "no descriptors": no_descriptors,
    "unreadable files": partial(modes, files=0),
    "unwritable files": partial(modes, files=0o400),
    "unwritable folders": partial(modes, folders=0o500),
    "closed folders": partial(modes, folders=0),
}


def become_owner(folder):
    """Be the folder's owner, whom rights bind, from root, whom they do not; give them all that is in it."""
    owner = folder.stat().st_uid
    for path in folder.rglob("*"):
        os.chown(path, owner, owner)
    os.seteuid(owner)


class Counting:
    """Counts in sessions, and keeps what went wrong, and how often it may have counted."""

    def __init__(self):
        self.errors = []
        self._counted, self._doubtful = dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 0)

    async def count(self, sessions, key):
        try:
            self._check(key, await sessions.read(key))
            await sessions.update(key, add_one)
        except (UnavailableError, SchemaError) as error:
            self.errors.append([type(error).__name__, type(error.__cause__).__name__])
            self._doubtful[key] += getattr(error, "outcome_unknown", False)
        else:
            self._counted[key] += 1

    async def count_all(self, sessions):
        async with asyncio.timeout(30):
            await asyncio.gather(*(self.count(sessions, key) for key in KEYS))

    def _check(self, key, found):
        counted = self._counted[key]
        if not counted <= (found.n if found else 0) <= counted + self._doubtful[key]:
            raise AssertionError(f"{counted} were counted, {found} was read")


async def main(url, hardship, folder):
    """Count before, during and after a hardship, and print the errors."""
    # Nothing bridges it, and every operation wants a connection.
    opened, new = (Sessions(open_storage(url), initial=Counter, batching=False, retrying=False) for _ in range(2))
    counting = Counting()
    await counting.count_all(opened)
    if hardship != "no descriptors" and os.geteuid() == 0:
        become_owner(folder)
    with HARDSHIPS[hardship](folder):
        await counting.count(new, KEYS[0])
        await counting.count_all(opened)
        await counting.count(new, KEYS[1])
    met, counting.errors = counting.errors, []
    for sessions in (opened, new):
        await counting.count_all(sessions)
        await sessions.storage.close()
    print(json.dumps({"met": met, "afterwards": counting.errors}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
