"""Locks by key: first come, first served; nothing is left when idle."""

import asyncio

import pytest
from bot_session import LockTimeoutError
from bot_session.locks import KeyLocks


@pytest.fixture
def locks():
    return KeyLocks()


async def turn():
    await asyncio.sleep(0)


async def test_nobody_has_it_at_first(locks):
    assert 0 == len(locks)
    assert "a" not in locks


async def test_one_holder_at_a_time(locks):
    await locks.acquire("a")

    assert "a" in locks
    assert not locks.try_acquire("a")
    locks.release("a")
    assert locks.try_acquire("a")


async def test_other_keys_do_not_wait(locks):
    await locks.acquire("a")
    async with asyncio.timeout(5):
        await locks.acquire("b")

    assert 2 == len(locks)


async def test_first_come_first_served(locks):
    order = []

    async def take(number):
        await locks.acquire("a")
        order.append(number)
        await turn()
        locks.release("a")

    await asyncio.gather(*(take(number) for number in range(20)))

    assert list(range(20)) == order


async def test_nobody_slips_in_between_a_release_and_whoever_waited_for_it(locks):
    await locks.acquire("a")
    waiting = asyncio.create_task(locks.acquire("a"))
    await turn()
    locks.release("a")

    assert not locks.try_acquire("a")
    await waiting


async def test_no_lock_is_left_when_idle(locks):
    async def take(key):
        await locks.acquire(key)
        await turn()
        locks.release(key)

    await asyncio.gather(*(take(str(number % 7)) for number in range(100)))

    assert 0 == len(locks)


async def test_waiting_has_an_end_that_names_the_key(locks):
    await locks.acquire("a")
    with pytest.raises(LockTimeoutError, match=r"'a'.*0\.01 s"):
        await locks.acquire("a", 0.01)
    locks.release("a")

    assert 0 == len(locks)


async def test_one_who_gave_up_waiting_is_passed_over(locks):
    await locks.acquire("a")
    tasks = [asyncio.create_task(locks.acquire("a")) for _ in range(3)]
    await turn()
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    locks.release("a")
    await tasks[0]
    locks.release("a")
    await tasks[2]
    locks.release("a")

    assert 0 == len(locks)


async def test_cancelled_after_the_hand_over_it_goes_to_the_next(locks):
    await locks.acquire("a")
    first, second = (asyncio.create_task(locks.acquire("a")) for _ in range(2))
    await turn()
    locks.release("a")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(5):
        await second
    locks.release("a")

    assert 0 == len(locks)


@pytest.mark.parametrize("others", [0, 1])
async def test_cancelled_just_before_the_hand_over_it_goes_to_the_next(locks, others):
    await locks.acquire("a")
    first, *rest = (asyncio.create_task(locks.acquire("a")) for _ in range(1 + others))
    await turn()
    first.cancel()
    locks.release("a")
    with pytest.raises(asyncio.CancelledError):
        await first
    for task in rest:
        async with asyncio.timeout(5):
            await task
        locks.release("a")

    assert 0 == len(locks)


async def test_several_are_held_together_and_let_go_together(locks):
    async with locks.holding("b", "a", "b"):
        assert ("a" in locks, "b" in locks, len(locks)) == (True, True, 2)

    assert 0 == len(locks)


async def test_several_are_taken_in_one_order_so_that_nobody_waits_in_a_circle(locks):
    async def take(*keys):
        async with locks.holding(*keys):
            await turn()

    async with asyncio.timeout(5):
        await asyncio.gather(*(take(*keys) for keys in ["ab", "ba", "bca", "cab"] * 5))

    assert 0 == len(locks)


async def test_those_that_were_taken_are_let_go_when_another_cannot_be(locks):
    await locks.acquire("b")
    with pytest.raises(LockTimeoutError, match="'b'"):
        async with locks.holding("a", "b", timeout=0.01):
            pytest.fail("the body ran")

    assert "a" not in locks


async def test_they_are_let_go_when_the_body_raises(locks):
    with pytest.raises(ZeroDivisionError):
        async with locks.holding("a", "b"):
            raise ZeroDivisionError

    assert 0 == len(locks)
