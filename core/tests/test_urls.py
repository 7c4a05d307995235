"""`open_storage`: schemes, options, and no secret in any error."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable  # noqa: TC003 - read with the options of URLs
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from bot_session import ConfigurationError, MemoryStorage, PrefixedStorage, Storage, open_storage, register_storage
from bot_session.redaction import redact_url
from hypothesis import example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self


class Recorder(MemoryStorage):
    """Keeps what `from_url` was given."""

    url: str
    options: dict[str, object]

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        table: str = "sessions",
        size: int = 1,
        timeout: float | None = 5.0,
        create: bool = True,
        mode: Literal["wal", "delete"] = "wal",
        password: int = 0,
    ) -> Self:
        made = cls()
        made.url = url
        made.options = {
            "table": table,
            "size": size,
            "timeout": timeout,
            "create": create,
            "mode": mode,
            "password": password,
        }
        return made


class DriverRecorder(Recorder):
    driver_query: ClassVar[bool] = True


class Refusing(MemoryStorage):
    """Quotes the URL in its error, as drivers do."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise ValueError(f"what is {url}?")


@pytest.fixture(autouse=True)
def schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot_session.urls._registered", {})
    register_storage("rec", Recorder)
    register_storage("drv+x", DriverRecorder)
    register_storage("refusing", Refusing)


def opened(url: object, **options: object) -> Recorder:
    storage = open_storage(url, **options)
    assert isinstance(storage, Recorder)
    return storage


# ---------------------------------------------------------------------- schemes


def test_memory_is_always_there():
    assert type(open_storage("memory:")) is MemoryStorage


@pytest.mark.parametrize("url", ["drv+x://h", "DRV+X://h", "Drv+x://h"])
def test_schemes_know_no_case_and_may_hold_a_plus(url):
    assert opened(url).url == "drv+x://h"


@pytest.mark.parametrize("url", ["", ":", "bot.db", "/var/bot.db", "://x", "1x:y", "ü:x"])
def test_a_url_without_a_scheme_is_refused_with_an_example(url):
    with pytest.raises(ConfigurationError, match=r"starts with a scheme, as in sqlite:bot\.db"):
        open_storage(url)


@pytest.mark.parametrize("url", [None, 5, b"memory:", ["memory:"]])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigurationError, match="by a URL or by a mapping"):
        open_storage(url)


@pytest.fixture
def nothing_installed(monkeypatch):
    """No entry points at all, whatever this environment has."""
    monkeypatch.setattr(sys, "path", [])


@pytest.mark.parametrize(
    ("scheme", "package"),
    [
        ("memory", "bot-session"),
        ("file", "bot-session-storage-file"),
        ("sqlite", "bot-session-storage-sqlite"),
        ("redis", "bot-session-storage-redis"),
        ("rediss+cluster", "bot-session-storage-redis"),
        ("redis+sentinel", "bot-session-storage-redis"),
        ("valkeys", "bot-session-storage-redis"),
        ("mongodb+srv", "bot-session-storage-mongo"),
        ("postgres", "bot-session-storage-postgres"),
        ("supabase", "bot-session-storage-supabase"),
    ],
)
@pytest.mark.usefixtures("nothing_installed")
def test_a_known_scheme_that_is_not_there_names_the_package(scheme, package):
    with pytest.raises(ConfigurationError) as refusal:
        open_storage(f"{scheme}://localhost")

    assert str(refusal.value) == f"no storage for '{scheme}' is installed: pip install {package}"


def test_an_unknown_scheme_lists_what_is_there_and_guesses():
    with pytest.raises(ConfigurationError) as refusal:
        open_storage("memroy:")

    assert "did you mean 'memory'?" in str(refusal.value)
    assert "drv+x" in str(refusal.value).partition("Installed: ")[2]


@pytest.mark.parametrize("scheme", ["", "a b", "a:b", "1a", "a_b"])
def test_only_schemes_can_be_registered(scheme):
    with pytest.raises(ConfigurationError, match="cannot be the scheme"):
        register_storage(scheme, Recorder)


def test_only_storages_can_be_registered():
    with pytest.raises(ConfigurationError, match="is no Storage"):
        register_storage("rec", dict)


# ---------------------------------------------------------------------- entry points, from real distributions


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a distribution: a module and its ``.dist-info``, in a folder of its own on the path."""

    def install(name: str, module: str, code: str, **entry_points: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{scheme.replace('_', '+')} = {value}" for scheme, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[bot_session.storages]", *lines]))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


MODULE = """
from bot_session import MemoryStorage

class Mine(MemoryStorage):
    @classmethod
    def from_url(cls, url, *, size: int = 1):
        made = cls()
        made.given = (url, size)
        return made
"""


def test_an_installed_package_is_found_by_its_scheme(distribution):
    distribution("acme-one", "acme_one", MODULE, acme_fast="acme_one:Mine")

    assert open_storage("acme+fast://h/p?size=5").given == ("acme+fast://h/p", 5)


def test_only_the_package_that_is_asked_for_is_imported(distribution):
    distribution("acme-two", "acme_two", MODULE, acme2="acme_two:Mine")
    distribution("acme-three", "acme_three", MODULE, acme3="acme_three:Mine")

    open_storage("acme2:")

    assert ("acme_two" in sys.modules, "acme_three" in sys.modules) == (True, False)


def test_a_broken_package_breaks_its_own_scheme_only_and_says_why(distribution):
    distribution("acme-broken", "acme_broken", "1 / 0", brk="acme_broken:Mine")
    distribution("acme-fine", "acme_fine", MODULE, fine="acme_fine:Mine")

    assert open_storage("fine:").given == ("fine:", 1)
    with pytest.raises(ConfigurationError, match="acme-broken, which has the storage for 'brk', is broken") as refusal:
        open_storage("brk:")
    assert isinstance(refusal.value.__cause__, ZeroDivisionError)


def test_a_missing_driver_says_what_to_install(distribution):
    distribution("acme-driver", "acme_driver", "import no_such_driver", drv="acme_driver:Mine")

    with pytest.raises(ConfigurationError, match=r"'no_such_driver'.*pip install acme-driver") as refusal:
        open_storage("drv:")

    assert isinstance(refusal.value.__cause__, ModuleNotFoundError)


def test_an_entry_point_that_is_no_storage_is_refused(distribution):
    distribution("acme-odd", "acme_odd", "Mine = dict", odd="acme_odd:Mine")

    with pytest.raises(ConfigurationError, match="acme_odd:Mine of acme-odd is no Storage"):
        open_storage("odd:")


def test_two_packages_with_one_scheme_are_named(distribution):
    distribution("acme-left", "acme_left", MODULE, both="acme_left:Mine")
    distribution("acme-right", "acme_right", MODULE, both="acme_right:Mine")

    with pytest.raises(ConfigurationError, match=r"acme-left \(acme_left:Mine\) and acme-right \(acme_right:Mine\)"):
        open_storage("both:")


def test_one_class_declared_twice_is_no_quarrel(distribution):
    distribution("acme-old-name", "acme_same", MODULE, same="acme_same:Mine")
    distribution("acme-new-name", "acme_same", MODULE, same="acme_same:Mine")

    assert open_storage("same:").given == ("same:", 1)


# ---------------------------------------------------------------------- options


def test_options_are_taken_out_of_the_url_and_typed():
    storage = opened("rec://h/p?table=%C3%A4%20b&size=-7&timeout=.5&create=off&mode=delete")

    assert storage.url == "rec://h/p"
    assert storage.options == {
        "table": "ä b",
        "size": -7,
        "timeout": 0.5,
        "create": False,
        "mode": "delete",
        "password": 0,
    }


def test_a_mapping_is_the_same_as_the_url():
    url = "rec:?table=t&size=2&timeout=1.5&create=no&mode=delete"
    mapping = {"url": "rec:", "table": "t", "size": 2, "timeout": 1.5, "create": False, "mode": "delete"}
    texts = {"url": "rec:", "table": "t", "size": "2", "timeout": "1.5", "create": "no", "mode": "delete"}

    assert opened(url).options == opened(mapping).options == opened(texts).options


def test_keyword_options_join_those_of_the_url():
    assert opened("rec:?table=t", size=3).options == opened({"url": "rec:?table=t"}, size="3").options


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("YES", True), ("on", True), ("False", False), ("0", False), ("no", False)],
)
def test_spellings_of_true_and_false(text, value):
    assert opened(f"rec:?create={text}").options["create"] is value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "1.0"), ("size", ""), ("size", "1_0"), ("size", " 1"), ("size", "٣"), ("size", True), ("size", 1.0),
        ("timeout", "nan"), ("timeout", "inf"), ("timeout", "1e999"), ("timeout", "five"), ("timeout", True),
        ("timeout", float("nan")), ("timeout", float("inf")), ("timeout", 10**400),
        ("create", "maybe"), ("create", ""), ("create", 1), ("create", None),
        ("mode", "WAL"), ("mode", 1), ("table", 5), ("table", None),
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"the option '{name}' must be"):
        opened("rec:", **{name: value})


def test_none_is_a_value_where_the_option_allows_it():
    assert opened("rec:", timeout=None).options["timeout"] is None


def test_an_integer_is_a_number():
    assert opened("rec:", timeout=3).options["timeout"] == 3.0


def test_the_value_of_a_secret_option_is_not_shown():
    with pytest.raises(ConfigurationError) as refusal:
        opened("rec:", password="hunter2")

    assert str(refusal.value) == "the option 'password' must be a whole number"


def test_an_unknown_option_lists_the_valid_ones_and_guesses():
    with pytest.raises(ConfigurationError) as refusal:
        opened("rec:?tabel=t")

    assert str(refusal.value) == (
        "Recorder has no option 'tabel': did you mean 'table'? "
        "Its options: create, mode, password, prefix, size, table, timeout"
    )


def test_the_drivers_options_stay_in_the_url_byte_for_byte():
    url = "drv+x://u:p%40w@h1,h2:5/0?b=%7e+&&size=2&A=1;2&b=&c&prefix=&d=="

    assert opened(url).url == "drv+x://u:p%40w@h1,h2:5/0?b=%7e+&&A=1;2&b=&c&d=="


def test_the_drivers_options_belong_into_the_url():
    with pytest.raises(ConfigurationError, match="options of the driver go into the URL's query"):
        opened("drv+x://h", ssl="yes")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("rec:?size=1&size=2", {}),
        ("rec:?size=1", {"size": 1}),
        ({"url": "rec:?size=1", "size": 1}, {}),
        ({"url": "rec:", "size": 1}, {"size": 1}),
    ],
)
def test_an_option_given_twice_is_refused(url, options):
    with pytest.raises(ConfigurationError, match="'size' is given twice"):
        opened(url, **options)


@pytest.mark.parametrize("url", ["rec:?size", "rec:?table=%ff", "rec:?%ff=1", "rec:x#?size=1", "rec:#"])
def test_malformed_queries_are_refused(url):
    with pytest.raises(ConfigurationError):
        opened(url)


@pytest.mark.parametrize("settings", [{}, {"url": None}, {"url": 5}, {"url": "rec:", 5: "x"}, {"url": {"url": "rec:"}}])
def test_a_mapping_needs_its_url_and_names(settings):
    with pytest.raises(ConfigurationError):
        open_storage(settings)


def test_an_option_of_a_type_that_none_can_have_is_the_adapters_fault():
    class Odd(MemoryStorage):
        @classmethod
        def from_url(cls, url: str, *, names: list[str] | None = None, either: int | str = 1) -> Self: ...

    register_storage("odd", Odd)

    with pytest.raises(ConfigurationError, match="'names' must be of a type that options can have"):
        open_storage("odd:?names=a")
    with pytest.raises(ConfigurationError, match="'either' is declared as"):
        open_storage("odd:?either=a")


# ---------------------------------------------------------------------- prefix, and storages as they are


async def test_prefix_wraps_any_storage():
    storage = open_storage("rec:?prefix=pizza%3a&size=2")
    assert isinstance(storage, PrefixedStorage)

    await storage.write("42", "1")

    assert [key async for key in storage.inner.read_all_keys()] == ["pizza:42"]
    assert storage.inner.options["size"] == 2


def test_an_empty_prefix_wraps_nothing():
    assert type(open_storage("rec:?prefix=")) is Recorder


def test_a_storage_of_its_own_prefix_gets_it():
    class Own(MemoryStorage):
        @classmethod
        def from_url(cls, url: str, *, prefix: str = "") -> Self:
            made = cls()
            made.prefix = prefix
            return made

    register_storage("own", Own)

    assert open_storage("own:?prefix=x").prefix == "x"


def test_a_storage_is_returned_as_it_is():
    storage = MemoryStorage()

    assert open_storage(storage) is storage
    assert open_storage(storage, prefix="x:").inner is storage
    with pytest.raises(ConfigurationError, match="made already: size, table"):
        open_storage(storage, table="x", size=1)


# ---------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0?prefix=a", "redis://localhost:6379/0?prefix=a"),
        ("redis://:hunter2@localhost", "redis://***@localhost"),
        ("redis://hunter2@localhost", "redis://***@localhost"),
        ("redis://a:hunt/er#2@localhost/0", "redis://***@localhost/0"),
        ("redis://a:hunt@er2@localhost/0", "redis://***@localhost/0"),
        ("redis://a:hunt?er2@localhost/0", "redis://***"),
        ("redis://h?password=hunt@er2", "redis://***"),
        ("supabase://h?apikey=hunter2&table=t", "supabase://h?apikey=***&table=t"),
        ("x:?JWT=hunter2&sslPassword=hunter2&service_key=h&key_column=k", "x:?JWT=***&sslPassword=***&service_key=***&key_column=k"),
        ("x:?p%61ssword=hunter2", "x:?p%61ssword=***"),
        ("sqlite:///home/bot.db", "sqlite:///home/bot.db"),
        (":hunter2@host", "***@host"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_url(url, shown):
    assert redact_url(url) == shown


def test_an_adapter_that_quotes_the_password_is_not_quoted():
    class Careless(MemoryStorage):
        driver_query = True

        @classmethod
        def from_url(cls, url: str) -> Self:
            raise ConfigurationError(f"no {url}, no bot:hun%74er2, no hunter2, no topsecret, but localhost")

    register_storage("careless", Careless)
    with pytest.raises(ConfigurationError) as refusal:
        open_storage("careless://bot:hun%74er2@localhost?apikey=topsecret")

    assert str(refusal.value) == "no careless://***@localhost?apikey=***, no ***, no ***, no ***, but localhost"
    assert refusal.value.__cause__ is None


SCHEMES = ("memory", "rec", "drv+x", "refusing", "nowhere", "redis", "sqlite")
OPTIONS = ("", "?size=x", "?tabel=t", "?size=1&size=1", "?create", "?prefix=%00", "#x", "/@")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# Three signs in a row of the password are a part of it; it is made of signs that nothing else here uses.
@settings(deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    slashes=st.sampled_from(("//", "", "/")),
    user=st.sampled_from(("", "bot")),
    password=st.text("QXZ/?#@:%&=[]", min_size=1).map(lambda text: f"QQQ{text}ZZZ"),
    options=st.sampled_from(OPTIONS),
)
@example(scheme="refusing", slashes="//", user="", password="QQQ/ZZZ", options="")
@example(scheme="rec", slashes="", user="", password="QQQ?XXX&ZZZ", options="")
def test_no_part_of_a_password_shows_in_any_error(scheme, slashes, user, password, options):
    try:
        open_storage(f"{scheme}:{slashes}{user}:{password}@localhost:1/0{options}")
    except ConfigurationError as error:
        report = "".join(traceback.format_exception(error, limit=0)) + "".join(map(repr, chain(error)))
        assert not {"QQQ", "ZZZ"} & {report[start : start + 3] for start in range(len(report))}


@settings(deadline=None)  # the first of a scheme imports its driver
@given(st.text() | st.tuples(st.sampled_from(SCHEMES), st.text()).map(":".join))
def test_any_text_is_a_storage_or_a_configuration_error(text):
    try:
        storage = open_storage(text)
    except ConfigurationError:
        return
    assert isinstance(storage, Storage)


class Plain(MemoryStorage):
    """Its URL has the options of its constructor, and one more."""

    def __init__(
        self, url: str, *, size: int = 1, mode: Literal["a", "b"] | None = "a", clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock=clock)
        self.given = (url, size, mode)

    @classmethod
    def from_url(cls, url: str, *, tls: bool = True, **options: Any) -> Self:
        return cls(url if tls else "plain", **options)


def test_the_options_of_a_url_may_be_those_of_the_constructor():
    register_storage("plain", Plain)

    assert open_storage("plain:x?size=5&mode=b").given == ("plain:x", 5, "b")
    assert open_storage("plain:x", tls=False, mode=None).given == ("plain", 1, None)
    with pytest.raises(ConfigurationError, match=r"no option 'clock'.*: mode, prefix, size, tls$"):
        open_storage("plain:x", clock=time.time)
