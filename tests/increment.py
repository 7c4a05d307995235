"""One of several processes that count in one session: run by test_processes.py, as ``increment.py URL HOW TIMES``."""

import asyncio
import sys
from dataclasses import dataclass

from bot_session import ConflictError, Sessions, open_storage


@dataclass
class Counter:
    n: int = 0


def add_one(counter: Counter) -> None:
    counter.n += 1


async def main(url: str, how: str, times: int) -> None:
    """Count, and print how often it worked, after every time that it did."""
    async with open_storage(url) as storage:
        sessions = Sessions(storage, initial=Counter, lock="shared" if how == "shared" else "process", lease_ttl=8)
        for _ in range(times):
            if how == "update":
                await sessions.update("counter", add_one)
            else:
                try:
                    async with sessions.open("counter") as session:
                        add_one(session.data)
                except ConflictError:
                    if how != "default":
                        raise
                    continue
            print("+1", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
