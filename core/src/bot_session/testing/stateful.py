"""A state machine: whatever sequence of operations a storage goes through, it ends where a dict ends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from bot_session.errors import ConflictError
from bot_session.storage import ABSENT, ANY, PRESENT, Match, Record, Storage, Version, Write, WriteResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Sequence

__all__ = ["Run", "StorageMachine", "run_storage_machine"]

Run: TypeAlias = Callable[["Coroutine[Any, Any, Any]"], Any]
"""Runs a coroutine where the storages live, and returns what it returns."""

MatchKind: TypeAlias = Literal["any", "absent", "present", "current", "stale"]

KEYS = st.sampled_from(["", "a", "A", "a:1", "a%", "b/..", "é", "e\u0301"])
PREFIXES = st.sampled_from(["", "a", "a:", "a%", "é", "e", "z"])
VALUES = st.sampled_from(["0", "1", '"x"', "[]", '{"a":[1,2.5]}'])
TTLS = st.sampled_from([None, 600.0, 600.0, 86_400.0])
MATCHES: st.SearchStrategy[MatchKind] = st.sampled_from(["any", "any", "absent", "present", "current", "stale"])
OPERATIONS = st.tuples(KEYS, st.none() | VALUES, TTLS, MATCHES)


class Stored(NamedTuple):
    """What the model holds of a document."""

    value: str
    version: Version
    ttl: float | None

    def agrees(self, record: Record) -> bool:
        """Say whether a storage read the same version and TTL."""
        # Time passes while the machine runs, but not that much; and whole seconds are rounded up.
        same_ttl = (
            record.ttl is None if self.ttl is None else record.ttl is not None and -1 <= self.ttl - record.ttl < 120
        )
        return self.version == record.version and same_ttl


class StorageMachine(RuleBasedStateMachine):
    """
    Does the same to a storage, by way of several instances in turn, and to a dict.

    Args:
        storages: Open instances over one database. What it holds is deleted.
        run: Runs a coroutine where the storages live.
        expire: Makes the document under a key expire; None if that takes long.
        comparable: Returns what must be alike of a document that was written and one that was read.
    """

    def __init__(
        self,
        storages: Sequence[Storage],
        run: Run,
        expire: Callable[[Storage, str], Awaitable[None]] | None = None,
        comparable: Callable[[str], object] = str,
    ) -> None:
        super().__init__()
        self._turns = cycle(storages)
        self._run = run
        self._expire = expire
        self._comparable = comparable
        self._model: dict[str, Stored] = {}
        self._versions: list[Version] = []
        run(self._clear())

    @property
    def storage(self) -> Storage:
        """The instance whose turn it is."""
        return next(self._turns)

    @rule(key=KEYS, value=VALUES, ttl=TTLS, kind=MATCHES)
    def write(self, key: str, value: str, ttl: float | None, kind: MatchKind) -> None:
        write = Write(key, value, ttl, self._match(key, kind))
        self._apply(write, self._attempt(self.storage.write(key, value, ttl=ttl, match=write.match)))

    @rule(key=KEYS, kind=MATCHES)
    def delete(self, key: str, kind: MatchKind) -> None:
        write = Write(key, None, match=self._match(key, kind))
        self._apply(write, self._attempt(self.storage.delete(key, match=write.match)))

    @rule(operations=st.lists(OPERATIONS, max_size=8))
    def write_many(self, operations: list[tuple[str, str | None, float | None, MatchKind]]) -> None:
        writes = [
            Write(key, value, None if value is None else ttl, self._match(key, kind))
            for key, value, ttl, kind in operations
        ]
        results = self._run(self.storage.write_many(writes))
        assert len(writes) == len(results)
        for write, result in zip(writes, results, strict=True):
            self._apply(write, result)

    @rule(keys=st.lists(KEYS, max_size=5))
    def delete_many(self, keys: list[str]) -> None:
        there = [self._model.pop(key, None) for key in dict.fromkeys(keys)]
        assert len(there) - there.count(None) == self._run(self.storage.delete_many(keys))

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: str, ttl: float | None) -> None:
        assert (key in self._model) == self._run(self.storage.touch(key, ttl))
        if key in self._model:
            # A backend that counts versions may count this one too.
            version = self._run(self.storage.read(key)).version
            self._model[key] = self._model[key]._replace(ttl=ttl, version=version)

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        record = self._run(self.storage.read(key))
        self._compare({key: self._model[key]} if key in self._model else {}, {} if record is None else {key: record})

    @rule(key=KEYS)
    def has(self, key: str) -> None:
        assert (key in self._model) == self._run(self.storage.has(key))

    @rule(keys=st.lists(KEYS, max_size=6))
    def read_many(self, keys: list[str]) -> None:
        expected = {key: self._model[key] for key in keys if key in self._model}
        self._compare(expected, self._run(self.storage.read_many(keys)))

    @rule(prefix=PREFIXES, batch_size=st.sampled_from([1, 3, 500]))
    def iterate(self, prefix: str, batch_size: int) -> None:
        expected = {key: stored for key, stored in self._model.items() if key.startswith(prefix)}
        assert sorted(expected) == sorted(self._run(self._keys(prefix, batch_size)))
        self._compare(expected, self._run(self._entries(prefix, batch_size)))

    @precondition(lambda self: self._expire and any(stored.ttl for stored in self._model.values()))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        assert self._expire is not None
        key = data.draw(st.sampled_from(sorted(key for key, stored in self._model.items() if stored.ttl)))
        self._run(cast("Coroutine[Any, Any, None]", self._expire(self.storage, key)))
        del self._model[key]

    @rule()
    def purge(self) -> None:
        self._run(self.storage.purge())

    def teardown(self) -> None:
        self._compare(self._model, self._run(self._entries("", 3)))

    def _match(self, key: str, kind: MatchKind) -> Match:
        """Choose what to ask for, as things stand now."""
        plain: dict[MatchKind, Match] = {"any": ANY, "absent": ABSENT, "present": PRESENT}
        if kind in plain:
            return plain[kind]
        current = self._model[key].version if key in self._model else None
        if kind == "current" and current is not None:
            return current
        return next((version for version in reversed(self._versions) if version != current), PRESENT)

    def _apply(self, write: Write, result: WriteResult) -> None:
        """Check the result of one operation, and do the same to the model."""
        stored = self._model.get(write.key)
        if write.match is ABSENT:
            holds = stored is None
        else:
            holds = write.match is ANY or (stored is not None and write.match in {PRESENT, stored.version})
        if not holds:
            assert isinstance(result, ConflictError), f"{write!r} did what its match forbids"
        elif write.value is None:
            assert result is (stored is not None)
            self._model.pop(write.key, None)
        else:
            assert isinstance(result, str), f"{write!r} failed although its match holds"
            self._model[write.key] = Stored(write.value, Version(result), write.ttl)
            self._versions.append(Version(result))

    def _attempt(self, operation: Coroutine[Any, Any, Version | bool]) -> WriteResult:
        try:
            return cast("Version | bool", self._run(operation))
        except ConflictError as conflict:
            return conflict

    def _compare(self, expected: dict[str, Stored], found: dict[str, Record]) -> None:
        assert sorted(expected) == sorted(found)
        for key, record in found.items():
            assert self._comparable(expected[key].value) == self._comparable(record.value)
            assert expected[key].agrees(record), f"{key!r}: {expected[key]} is not {record.value!r}, {record!r}"

    async def _keys(self, prefix: str, batch_size: int) -> list[str]:
        return [key async for key in self.storage.read_all_keys(prefix, batch_size=batch_size)]

    async def _entries(self, prefix: str, batch_size: int) -> dict[str, Record]:
        return {key: record async for key, record in self.storage.read_all_entries(prefix, batch_size=batch_size)}

    async def _clear(self) -> None:
        await self.storage.delete_many(await self._keys("", 500))


def run_storage_machine(
    storages: Sequence[Storage],
    run: Run,
    expire: Callable[[Storage, str], Awaitable[None]] | None = None,
    comparable: Callable[[str], object] = str,
    *,
    examples: int = 20,
    steps: int = 30,
) -> None:
    """Try ``examples`` sequences of up to ``steps`` operations; blocks until done. Arguments as `StorageMachine`."""

    class Machine(StorageMachine):
        def __init__(self) -> None:
            super().__init__(storages, run, expire, comparable)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # shrinking may take minutes over a real backend
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
        ),
    )
