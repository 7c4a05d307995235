"""What bot authors see of the types: checked by mypy and pyright, never run."""

from dataclasses import dataclass
from typing import Any, assert_type

from bot_session import LazySession, MemoryStorage, Session, Sessions, Storage, open_storage


@dataclass
class Pizza:
    count: int = 0


def make() -> Pizza:
    return Pizza()


async def make_later() -> Pizza:
    return Pizza()


def make_for(origin: Any) -> Pizza:
    return Pizza(count=origin.chat_id)


storage = MemoryStorage()

assert_type(open_storage("memory:"), Storage)
assert_type(Sessions(storage, initial=Pizza), Sessions[Pizza])
assert_type(Sessions(storage, initial=make), Sessions[Pizza])
assert_type(Sessions(storage, initial=make_later), Sessions[Pizza])
assert_type(Sessions(storage, initial=make_for), Sessions[Pizza])
assert_type(Sessions(storage, initial=lambda: Pizza(1)), Sessions[Pizza])
assert_type(Sessions(storage, type=Pizza), Sessions[Pizza])
assert_type(Sessions(storage, initial=int, ttl=60), Sessions[int])
assert_type(Sessions(storage), Sessions[Any])

sessions = Sessions(storage, initial=Pizza, on_conflict="raise")


async def use() -> None:
    async with sessions.open("42") as session:
        assert_type(session, Session[Pizza])
        assert_type(session.data, Pizza)
        assert_type(await session.get(), Pizza)
        session.data.count += 1
        session.data = Pizza()
        session.data = None
        session.data.cuont += 1  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    async with sessions.open("42", lazy=True) as lazy:
        assert_type(lazy, LazySession[Pizza])
        assert_type(await lazy.get(), Pizza)
    assert_type(await sessions.read("42"), Pizza | None)
    assert_type(await sessions.update("42", lambda pizza: None), Pizza)
    async for key, pizza in sessions.entries():
        assert_type(key, str)
        assert_type(pizza, Pizza)
    sessions.open(42)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    Sessions(storage, initial=Pizza, prefx="x")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
