"""Envelopes, as grammY's `enhanceStorage` writes them, and migrations."""

import json
import math
from dataclasses import dataclass
from decimal import Decimal

import pytest
from bot_session import ConfigurationError, ConflictError, DecodeError, MigrationError, Sessions
from bot_session.migrations import Migrations, open_envelope, seal_envelope

NOW = 1_700_000_000_000


@pytest.fixture
def clock(monkeypatch):
    """The clock of the envelopes stands at `NOW` milliseconds."""
    monkeypatch.setattr("time.time", lambda: NOW / 1000)


def noting(*versions):
    """Migrations that note in the data that they ran."""
    return {version: lambda data, version=version: [*data, str(version)] for version in versions}


async def kept(sessions, key="42"):
    async with sessions.open(key) as session:
        return session.data


class TestEnvelopes:
    @pytest.mark.parametrize(
        ("document", "data", "version", "expires"),
        [
            ('{"__d":{"count":1}}', '{"count":1}', None, None),
            ('{"v":12,"__d":{"count":1}}', '{"count":1}', 12, None),
            ('{"v":10.1,"__d":[1.0,1e2]}', "[1.0,1e2]", Decimal("10.1"), None),
            ('{"v":12,"__d":"x","e":1700000000000}', '"x"', 12, 1_700_000_000_000),
            ('{ "e": 1.5, "__d" : null }', "null", None, 1.5),
            ('{"__d":1,"e":null}', "1", None, None),  # grammY's Infinity
            ('{"__d":{"__d":{"v":1}}}', '{"__d":{"v":1}}', None, None),
            (r'{"v":1,"__d":{"a":"\ud800"}}', r'{"a":"\ud800"}', 1, None),
        ],
    )
    def test_they_are_opened(self, document, data, version, expires):
        envelope = open_envelope(document)

        assert (data, version, expires) == (envelope.document, envelope.version, envelope.expires)

    @pytest.mark.parametrize(
        "document",
        [
            '{"__d":1,"mine":2}',
            '{"v":1}',
            '{"v":1,"e":2}',
            '{"v":"12","__d":1}',
            '{"v":true,"__d":1}',
            '{"v":[1],"__d":1}',
            '{"__d":1,"e":"soon"}',
            '{"__d":1,"e":"1700000000000"}',
            '{"__d":1,"e":{}}',
            '{"a":{"__d":1}}',
            '["__d"]',
            '"__d"',
            "null",
            '{"__d":',
            '{"__d":1,"e":2,"v":3,"x":4}',
        ],
    )
    def test_what_is_not_quite_one_is_data(self, document):
        assert open_envelope(document) is None
        assert document == seal_envelope(document)

    @pytest.mark.parametrize(
        ("version", "document"),
        [
            (Decimal(12), '{"v":12,"__d":{"count":1}}'),
            (Decimal("10.1"), '{"v":10.1,"__d":{"count":1}}'),
            (Decimal("1E+2"), '{"v":100,"__d":{"count":1}}'),
            (None, '{"count":1}'),
        ],
    )
    def test_they_are_written_byte_for_byte_as_grammy_writes_them(self, version, document):
        assert document == seal_envelope('{"count":1}', version)

    def test_an_expired_one_is_over_after_its_very_millisecond(self, clock):
        expired = [open_envelope(f'{{"__d":1,"e":{NOW + more}}}').expired for more in (-1, 0, 1)]

        assert [True, False, False] == expired


class TestDataThatLooksLikeAnEnvelope:
    @pytest.mark.parametrize(
        "data",
        [
            {"__d": 1},
            {"__d": {"__d": 1}},
            {"v": 1, "__d": 2, "e": 3},
            {"v": 1, "__d": {"a": 1}},
            {"__d": 1, "mine": 2},
            {"v": 1, "e": 2},
            {"v": "1", "__d": 2},
            {"v": None, "__d": 2, "e": None},
            {"__d": "\ud800"},
        ],
        ids=json.dumps,
    )
    @pytest.mark.parametrize("migrations", [None, {1: lambda data: data}])
    async def test_it_round_trips(self, storage, data, migrations):
        sessions = Sessions(storage, migrations=migrations)
        async with sessions.open("42") as session:
            session.data = data

        assert data == await sessions.read("42")
        assert data == await kept(sessions)
        assert 1 == storage.calls.count(("write", "42"))

    async def test_a_field_called_so_in_larger_data_is_data(self, storage):
        """Unlike grammY, which takes any object with such a field for an envelope and forgets the rest."""
        document = '{"__d":{"count":1},"name":"Ada"}'
        await storage.store("42", document)
        sessions = Sessions(storage)
        async with sessions.open("42") as session:
            session.data["name"] = "Grace"

        assert '{"__d":{"count":1},"name":"Grace"}' == await storage.stored("42")


class TestWithoutMigrations:
    async def test_what_grammy_put_into_an_envelope_is_read(self, storage):
        await storage.store("42", '{"__d":{"count":1}}')

        assert {"count": 1} == await Sessions(storage).read("42")

    async def test_its_version_is_kept(self, storage):
        await storage.store("42", '{"v":12,"__d":{"count":1}}')
        async with Sessions(storage).open("42") as session:
            session.data["count"] += 1

        assert '{"v":12,"__d":{"count":2}}' == await storage.stored("42")

    async def test_its_expiry_is_the_storages_from_then_on(self, storage, clock):
        await storage.store("42", f'{{"__d":{{"count":1}},"e":{NOW + 1}}}')
        async with Sessions(storage, ttl=100).open("42") as session:
            session.data["count"] += 1

        assert '{"count":2}' == await storage.stored("42")
        assert 100 == pytest.approx((await storage.read("42")).ttl, abs=5)

    async def test_looking_leaves_it_as_it_is(self, storage, clock):
        await storage.store("42", f'{{"__d":{{"count":1}},"e":{NOW + 1}}}')
        async with Sessions(storage).open("42") as session:
            assert {"count": 1} == session.data

        assert [("read", "42")] == storage.calls

    async def test_an_expired_one_is_a_new_session(self, storage, clock):
        await storage.store("42", f'{{"__d":{{"count":9}},"e":{NOW - 1}}}')
        sessions = Sessions(storage, initial=dict)

        assert await sessions.read("42") is None
        assert not await sessions.has("42")
        assert [] == [entry async for entry in sessions.entries()]
        async with sessions.open("42") as session:
            assert session.is_new
            session.data["count"] = 1
        assert '{"count":1}' == await storage.stored("42")

    async def test_one_whose_millisecond_it_is_lives(self, storage, clock):
        await storage.store("42", f'{{"__d":{{"count":9}},"e":{NOW}}}')

        assert {"count": 9} == await Sessions(storage).read("42")


class TestVersions:
    async def test_they_are_exact_and_each_migration_runs_once_in_order(self, storage):
        """Unlike grammY, which truncates 10.1 to 10."""
        await storage.store("42", "[]")

        assert ["10", "10.1", "11"] == await kept(Sessions(storage, migrations=noting(11, 10.1, 10)))

    async def test_integers_floats_and_decimals_mix(self, storage):
        await storage.store("42", "[]")
        migrations = noting(Decimal("0.30"), 0.2, 1, 0.5, Decimal("1E+1"))

        assert ["0.2", "0.30", "0.5", "1", "1E+1"] == await kept(Sessions(storage, migrations=migrations))

    @pytest.mark.parametrize(
        ("stored", "run"),
        [
            ("[]", ["1", "3", "12"]),
            ('{"__d":[]}', ["1", "3", "12"]),
            ('{"v":0,"__d":[]}', ["1", "3", "12"]),
            ('{"v":1,"__d":[]}', ["3", "12"]),
            ('{"v":2.99,"__d":[]}', ["3", "12"]),
            ('{"v":8,"__d":[]}', ["12"]),
            ('{"v":12,"__d":[]}', []),
            ('{"v":12.0,"__d":[]}', []),
            ('{"v":-5,"__d":[]}', ["1", "3", "12"]),
        ],
    )
    async def test_those_beyond_the_stored_one_run(self, storage, stored, run):
        await storage.store("42", stored)

        assert run == await kept(Sessions(storage, migrations=noting(1, 3, 12)))

    async def test_a_quoted_version_is_data(self, storage):
        await storage.store("42", '{"v":"12","__d":[]}')
        sessions = Sessions(storage, migrations={1: lambda data: {**data, "seen": True}})

        assert {"v": "12", "__d": [], "seen": True} == await sessions.read("42")

    @pytest.mark.parametrize("version", ["13", "12.0001", "1e3"])
    async def test_data_newer_than_the_code_is_refused_and_left_alone(self, storage, version):
        """Unlike grammY, which hands it out and labels it as older than it is."""
        document = f'{{"v":{version},"__d":[]}}'
        await storage.store("42", document)
        sessions = Sessions(storage, migrations=noting(12))
        with pytest.raises(MigrationError, match=r"'42'.* 12"):
            async with sessions.open("42"):
                pytest.fail("the body ran")
        with pytest.raises(MigrationError):
            await sessions.update("42", lambda data: [1])

        assert document == await storage.stored("42")
        assert 0 == len(sessions.desk.locks)

    async def test_the_newest_one_is_written_exactly(self, storage):
        async with Sessions(storage, migrations=noting(10, 10.1)).open("42") as session:
            session.data = []

        assert '{"v":10.1,"__d":[]}' == await storage.stored("42")

    @pytest.mark.parametrize("bad", [True, "1", None, math.nan, math.inf, Decimal("NaN"), (1,), 1j])
    def test_what_is_no_number_is_refused(self, bad):
        with pytest.raises(ConfigurationError, match="number"):
            Migrations({bad: list})

    def test_two_of_one_version_are_refused(self):
        with pytest.raises(ConfigurationError, match="same version"):
            Migrations({10.1: list, Decimal("10.10"): list})

    def test_none_at_all_is_refused(self):
        with pytest.raises(ConfigurationError):
            Migrations({})


class TestMigrating:
    async def test_async_ones_are_awaited_in_order(self, storage):
        """Unlike grammY, where the next migration is given a promise."""

        async def second(data):
            return [*data, "2"]

        await storage.store("42", "[]")
        migrations = {3: lambda data: [*data, "3"], 2: second, 1: lambda data: [*data, "1"]}

        assert ["1", "2", "3"] == await kept(Sessions(storage, migrations=migrations))

    async def test_new_sessions_are_not_migrated(self, storage):
        async with Sessions(storage, initial=list, migrations={1: lambda _: 1 / 0}).open("42") as session:
            assert [] == session.data

        assert [("read", "42")] == storage.calls

    async def test_looking_persists_nothing(self, storage):
        await storage.store("42", "[]")
        for _ in range(2):
            assert ["1"] == await kept(Sessions(storage, migrations=noting(1)))

        assert "[]" == await storage.stored("42")
        assert {("read", "42")} == set(storage.calls)

    async def test_the_next_change_persists_all_with_the_newest_version(self, storage):
        await storage.store("42", '{"v":1,"__d":[]}')
        async with Sessions(storage, migrations=noting(1, 2)).open("42") as session:
            session.data.append("mine")

        assert '{"v":2,"__d":["2","mine"]}' == await storage.stored("42")

    async def test_the_old_shape_need_not_fit_the_type(self, storage):
        @dataclass
        class Pizza:
            count: int = 0

        await storage.store("42", '{"n":"3"}')
        sessions = Sessions(storage, initial=Pizza, migrations={1: lambda old: {"count": int(old["n"])}})

        assert Pizza(3) == await sessions.read("42")

    async def test_the_new_shape_must_fit_it(self, storage):
        @dataclass
        class Pizza:
            count: int = 0

        await storage.store("42", '{"n":"3"}')
        with pytest.raises(DecodeError, match="Pizza"):
            await Sessions(storage, initial=Pizza, migrations={1: lambda old: {"count": "3"}}).read("42")

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_one_that_raises_fails_the_update_and_leaves_the_data(self, storage, kind):
        def sync(data):
            raise ZeroDivisionError

        async def later(data):
            raise ZeroDivisionError

        await storage.store("42", "[]")
        sessions = Sessions(storage, migrations={1.5: sync if kind == "sync" else later})
        with pytest.raises(MigrationError, match=r"'42'.*1\.5.*ZeroDivisionError") as caught:
            async with sessions.open("42"):
                pytest.fail("the body ran")

        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert "[]" == await storage.stored("42")
        assert 0 == len(sessions.desk.locks)

    async def test_one_that_returns_none_drops_the_session(self, storage):
        await storage.store("42", '["old"]')
        sessions = Sessions(storage, initial=list, migrations={1: lambda _: None, 2: lambda _: 1 / 0})
        async with sessions.open("42") as session:
            assert [] == session.data
            assert session.is_new
        assert '["old"]' == await storage.stored("42")
        async with sessions.open("42") as session:
            session.data.append("new")

        assert '{"v":2,"__d":["new"]}' == await storage.stored("42")

    async def test_going_through_all_migrates_and_passes_over_what_has_expired_or_was_dropped(self, storage, clock):
        await storage.store("1", "[]")
        await storage.store("2", '{"v":1,"__d":["a"]}')
        await storage.store("3", f'{{"v":1,"__d":[],"e":{NOW - 1}}}')
        await storage.store("4", '["drop"]')
        migrations = noting(2) | {1: lambda data: None if data == ["drop"] else [*data, "1"]}
        sessions = Sessions(storage, migrations=migrations)

        assert {"1": ["1", "2"], "2": ["a", "2"]} == dict([entry async for entry in sessions.entries()])
        assert [["1", "2"], ["a", "2"]] == [data async for data in sessions.values()]

    async def test_newer_ones_among_them_raise_or_are_reported(self, storage):
        await storage.store("1", "[]")
        await storage.store("2", '{"v":9,"__d":[]}')
        sessions = Sessions(storage, migrations=noting(1))
        with pytest.raises(MigrationError, match="'2'"):
            [entry async for entry in sessions.entries()]
        errors = []

        assert [("1", ["1"])] == [entry async for entry in sessions.entries(on_error=errors.append)]
        assert ["2"] == [error.key for error in errors]

    async def test_update_migrates_too(self, storage):
        await storage.store("42", "[]")
        await Sessions(storage, migrations=noting(1)).update("42", lambda data: [*data, "mine"])

        assert '{"v":1,"__d":["1","mine"]}' == await storage.stored("42")


class TestConflictsInEnvelopes:
    async def test_what_is_merged_is_the_data_inside(self, storage):
        await storage.store("42", '{"v":1,"__d":{"a":1,"b":1}}')
        async with Sessions(storage, migrations={1: dict}).open("42") as session:
            session.data["a"] = 2
            await storage.store("42", '{"v":1,"__d":{"a":1,"b":3}}')

        assert '{"v":1,"__d":{"a":2,"b":3}}' == await storage.stored("42")

    async def test_the_other_side_may_be_an_older_version(self, storage):
        def rename(data):
            return {"a": data["old"], "b": data["b"]}

        await storage.store("42", '{"old":1,"b":1}')
        async with Sessions(storage, migrations={1: rename}).open("42") as session:
            session.data["a"] = 2
            await storage.store("42", '{"old":1,"b":3}')

        assert '{"v":1,"__d":{"a":2,"b":3}}' == await storage.stored("42")

    async def test_the_other_side_may_be_newer_than_the_code_and_stays(self, storage):
        await storage.store("42", '{"v":1,"__d":{"a":1}}')
        with pytest.raises(MigrationError):
            async with Sessions(storage, migrations={1: dict}).open("42") as session:
                session.data["a"] = 2
                await storage.store("42", '{"v":2,"__d":{"b":1}}')

        assert '{"v":2,"__d":{"b":1}}' == await storage.stored("42")

    async def test_without_migrations_the_version_of_the_other_side_is_kept(self, storage):
        await storage.store("42", '{"v":1,"__d":{"a":1,"b":1}}')
        async with Sessions(storage).open("42") as session:
            session.data["a"] = 2
            await storage.store("42", '{"v":2,"__d":{"a":1,"b":3}}')

        assert '{"v":2,"__d":{"a":2,"b":3}}' == await storage.stored("42")

    async def test_the_sides_of_the_error_are_the_data_inside(self, storage):
        await storage.store("42", '{"v":1,"__d":{"a":1}}')
        with pytest.raises(ConflictError) as caught:
            async with Sessions(storage, migrations={1: dict}).open("42") as session:
                session.data["a"] = 2
                await storage.store("42", '{"v":1,"__d":{"a":3}}')

        assert ('{"a":2}', '{"a":3}') == (caught.value.mine, caught.value.theirs)
