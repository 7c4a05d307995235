"""The command, as operators run it."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from bot_session import MemoryStorage, Seal, Sessions, Write, generate_key, open_storage, register_storage, urls
from bot_session.cli import main
from bot_session.leases import LEASE_PREFIX

COMMAND = [sys.executable, "-m", "bot_session"]


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOT_SESSION_URL", raising=False)


@pytest.fixture
def run():
    """Run the command in this process, in the way its script does, and return how it went."""

    def run(*arguments):
        out, err = io.TextIOWrapper(io.BytesIO(), "latin-1"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(arguments)
            except SystemExit as end:
                status = end.code
            out.flush()
            return Result(status, out.buffer.getvalue().decode(), err.getvalue())

    return run


@pytest.fixture
def fill():
    """Store documents, ``{key: document}``, in the storage of a URL."""

    async def fill(url, documents, **options):
        async with open_storage(url) as storage:
            await storage.write_many([Write(key, document, **options) for key, document in documents.items()])

    return lambda *arguments, **options: _sync(fill(*arguments, **options))


def _sync(coroutine):
    import asyncio

    return asyncio.run(coroutine)


@pytest.fixture
def bot(fill):
    """A bot's database, with three sessions, a lease and one that has expired."""
    url = "sqlite:bot.db"
    fill(url, {"42": '{"count":1}', "-100123": '{"name":"Größe 🍕"}', "-100:7": "[1.50,12345678901234567890]"})
    fill(url, {LEASE_PREFIX + "42": '{"holder":"x"}', "pizza:" + LEASE_PREFIX + "42": '{"holder":"x"}'})
    fill(url, {"gone": "1"}, ttl=0.001)
    return url


@pytest.fixture
def memory(monkeypatch):
    """A storage that outlives the commands that open and close it, with the URL kept:."""
    storage = MemoryStorage()

    class Kept(MemoryStorage):
        @classmethod
        def from_url(cls, url):
            return storage

    monkeypatch.setattr(urls, "_registered", {})
    register_storage("kept", Kept)
    return storage


class TestLooking:
    def test_keys_are_lines(self, run, bot):
        assert Result(0, "-100123\n-100:7\n42\n", "") == sorted_lines(run("keys", bot))
        assert Result(0, "-100123\n-100:7\n", "") == sorted_lines(run("keys", bot, "--prefix", "-100"))

    def test_keys_as_json(self, run, bot):
        assert {"-100123", "-100:7", "42"} == {line["key"] for line in run("keys", bot, "--json").objects}

    def test_keys_cannot_command_the_terminal(self, run, fill):
        hostile = "a\nb\x1b[2J\u202e\x9b\\"
        fill("sqlite:bot.db", {hostile: "1"})

        assert "a\\u000ab\\u001b[2J\\u202e\\u009b\\\n" == run("keys", "sqlite:bot.db").out
        assert [{"key": hostile}] == run("keys", "sqlite:bot.db", "--json").objects

    def test_count(self, run, bot):
        assert Result(0, "3\n", "") == run("count", bot)
        assert Result(0, '{"count": 2}\n', "") == run("count", bot, "--prefix=-100", "--json")

    def test_a_document_is_shown_for_reading(self, run, bot):
        assert Result(0, '{\n  "name": "Größe 🍕"\n}\n', "") == run("show", bot, "-100123")
        assert Result(0, "[\n  1.50,\n  12345678901234567890\n]\n", "") == run("show", bot, "-100:7")

    def test_a_document_as_json_is_one_line_and_exact(self, run, bot):
        assert (
            '{"key": "-100:7", "ttl": null, "value": [1.50,12345678901234567890]}\n'
            == run("show", bot, "--json", "-100:7").out
        )

    @pytest.mark.parametrize(
        "document",
        ['{\r\n\t"a":\t1}', '"\\ud83c"', '"\x9b2J\u202e"', "[" * 5000 + "]" * 5000, "not json \x1b", ""],
        ids=["lines", "half", "commanding", "deep", "broken", "empty"],
    )
    def test_any_document_can_be_shown(self, run, memory, fill, document):
        _sync(memory.write("42", document))

        shown, as_json = run("show", "kept:", "42"), run("show", "kept:", "42", "--json")

        assert (0, 0, 1) == (shown.status, as_json.status, as_json.out.count("\n"))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown.out + as_json.out)
        try:
            data = json.loads(document)
        except (ValueError, RecursionError):
            return
        assert data == json.loads(shown.out) == as_json.objects[0]["value"]

    def test_the_remaining_life_is_told_beside(self, run, fill):
        fill("sqlite:bot.db", {"42": "{}"}, ttl=2 * 86_400 + 3600 * 5 + 60)

        assert Result(0, "{}\n", "expires in 2 days 5 hours\n") == run("show", "sqlite:bot.db", "42")
        assert 190_000 < run("show", "sqlite:bot.db", "42", "--json").objects[0]["ttl"] < 191_000

    def test_nothing_is_an_error(self, run, bot):
        assert Result(1, "", "bot-session: nothing is stored under '-5'\n") == run("show", bot, "-5")
        assert Result(1, "", "bot-session: nothing is stored under '-5'\n") == run("delete", bot, "-5")

    def test_looking_does_not_create(self, run):
        for command in (["keys"], ["count"], ["check"], ["purge"], ["show", "42"], ["delete", "42"]):
            for url in ("sqlite:mistyped.db", "file:mistyped"):
                assert 1 == run(command[0], url, *command[1:]).status

        assert [] == list(Path().iterdir())

    def test_whoever_wants_it_created_says_so(self, run):
        assert Result(0, "0\n", "") == run("count", "sqlite:new.db?create=true")

    def test_check(self, run, bot):
        assert re.fullmatch(r"ok: <SQLiteStorage .*>, \d+ ms\n", run("check", bot).out)
        assert {"storage", "seconds"} == run("check", "--json", bot).objects[0].keys()

    def test_ddl_can_be_run(self, run):
        import sqlite3

        statements = run("ddl", "sqlite:bot.db")
        with contextlib.closing(sqlite3.connect("bot.db")) as database:
            database.executescript(statements.out)

        assert Result(0, "0\n", "") == run("count", "sqlite:bot.db")

    def test_ddl_of_a_storage_without(self, run):
        assert Result(0, "", "this storage needs none\n") == run("ddl", "memory:")

    def test_storages(self, run, monkeypatch):
        assert re.search(
            r"^sqlite +SQLiteStorage +shared, durable, needs purge, atomic batches$", *both(run("storages"))
        )
        memory = next(line for line in run("storages", "--json").objects if line["scheme"] == "memory")
        assert ("MemoryStorage", False, None) == (memory["class"], memory["durable"], memory["max_key_bytes"])

    def test_a_storage_that_cannot_be_imported_is_listed_with_its_reason(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "bot_session_storage_sqlite", None)

        assert re.search(r"^sqlite +the storage for 'sqlite' cannot be imported", *both(run("storages")))
        assert 0 == run("storages").status


class TestChanging:
    def test_delete(self, run, bot):
        assert Result(0, "deleted -100:7\n", "") == run("delete", bot, "-100:7")
        assert Result(0, "2\n", "") == run("count", bot)

    def test_purge(self, run, bot):
        assert Result(0, "purged 1\n", "") == run("purge", bot)
        assert Result(0, '{"purged": 0}\n', "") == run("purge", bot, "--json")

    def test_copy(self, run, bot, fill):
        fill("file:copy", {"42": '{"count":9}'})

        assert Result(0, "copied 2, 1 were there already and stay (--overwrite replaces them)\n", "") == run(
            "copy", bot, "file:copy"
        )
        assert [{"key": "42", "ttl": None, "value": {"count": 9}}] == run("show", "file:copy", "42", "--json").objects

    def test_copy_over(self, run, bot, fill):
        fill("file:copy", {"42": '{"count":9}'})

        assert Result(0, '{"copied": 3, "kept": 0}\n', "") == run("copy", bot, "--overwrite", "file:copy", "--json")
        assert [{"key": "42", "ttl": None, "value": {"count": 1}}] == run("show", "file:copy", "42", "--json").objects

    def test_copy_of_a_prefix(self, run, bot):
        assert Result(0, "copied 2\n", "") == run("copy", bot, "sqlite:new.db", "--prefix=-100")


class TestEncryption:
    @pytest.fixture
    def key_file(self, run):
        path = Path("keys")
        path.write_text("# the current one\n" + run("generate-key").out)
        return path

    @pytest.fixture
    def key(self, key_file):
        return key_file.read_text().splitlines()[1]

    def test_generated_keys_are_keys(self, run):
        assert repr(Seal(run("generate-key").out.strip())) != repr(Seal(run("generate-key").out.strip()))

    def test_plain_sessions_are_encrypted_if_asked_for(self, run, bot, key_file, key):
        refused = run("seal", bot, "--key-file", "keys")
        assert (1, "encrypted 0, 0 were already, 3 failed\n", 3) == (refused.status, refused.out, lines(refused.err))
        assert "session '42': the document is not encrypted" in refused.err

        assert Result(0, "encrypted 3, 0 were already\n", "") == run(
            "seal", bot, "--key-file", "keys", "--accept-plain", "--compress"
        )
        assert run("show", bot, "42").out.startswith('"bot-session:sealed:aes-256-gcm:')
        assert Result(0, '{\n  "count": 1\n}\n', "") == run("show", bot, "42", "--key-file", "keys")

        assert {"count": 1} == _sync(read(bot, "42", Seal(key)))

    def test_the_key_can_be_changed(self, run, bot, key_file, key):
        run("seal", bot, "--key-file", "keys", "--accept-plain")
        new = generate_key()
        key_file.write_text(f"{new}\n{key}\n")

        assert [{"written": 3, "kept": 0, "failed": 0}] == run("seal", bot, "--key-file", "keys", "--json").objects
        assert {"count": 1} == _sync(read(bot, "42", Seal(new)))

    def test_a_wrong_key_is_an_error(self, run, bot, key_file):
        run("seal", bot, "--key-file", "keys", "--accept-plain")
        Path("others").write_text(generate_key())

        shown = run("show", bot, "42", "--key-file", "others")

        assert (1, "") == (shown.status, shown.out)
        assert re.fullmatch(r"bot-session: session '42': .* encrypted with the key '\w{8}'; .*\n", shown.err)

    def test_a_key_file_may_begin_with_a_minus_and_a_digit(self, run, bot, key_file):
        key_file.rename("-1.key")

        assert Result(0, "encrypted 3, 0 were already\n", "") == run(
            "seal", bot, "--key-file", "-1.key", "--accept-plain"
        )
        assert Result(0, '{\n  "count": 1\n}\n', "") == run("show", bot, "42", "--key-file", "-1.key")
        assert 2 == run("show", bot, "42", "--key-file", "-2.key").status

    def test_what_could_not_be_decrypted_there_is_not_copied(self, run, bot, key_file):
        run("seal", bot, "--key-file", "keys", "--accept-plain")

        refused = run("copy", bot, "sqlite:copy.db?prefix=a:")

        assert (2, "", 1) == (refused.status, refused.out, lines(refused.err))
        assert "copy with the same prefix" in refused.err
        assert Result(0, "0\n", "") == run("count", "sqlite:copy.db")
        assert Result(0, "copied 3\n", "") == run("copy", bot, "sqlite:copy.db")
        assert Result(0, '{\n  "count": 1\n}\n', "") == run("show", "sqlite:copy.db", "42", "--key-file", "keys")

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "is empty"), (b"\xff", "something else"), (b"# none\n\n", "is empty"), (b"c2VjcmV0\n", "key 1 is nei")],
    )
    def test_a_key_file_without_keys_is_misuse_and_not_shown(self, run, bot, content, problem):
        Path("keys").write_bytes(content)

        result = run("seal", bot, "--key-file", "keys")

        assert (2, "", 1) == (result.status, result.out, lines(result.err))
        assert problem in result.err
        assert "c2VjcmV0" not in result.err

    def test_a_missing_key_file_is_misuse(self, run, bot):
        assert Result(2, "", "bot-session: the key file keys cannot be read: No such file or directory\n") == run(
            "seal", bot, "--key-file", "keys"
        )


class TestManners:
    def test_the_url_may_come_from_the_environment(self, run, bot, monkeypatch):
        monkeypatch.setenv("BOT_SESSION_URL", bot)
        monkeypatch.setenv("BACKUP", "sqlite:backup.db")

        assert Result(0, "3\n", "") == run("count")
        assert Result(0, '{\n  "count": 1\n}\n', "") == run("show", "42")
        assert Result(0, "copied 3\n", "") == run("copy", "env:BOT_SESSION_URL", "env:BACKUP")
        assert Result(0, "3\n", "") == run("count", "env:BACKUP")

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["keys"], "which storage? Give its URL, or set BOT_SESSION_URL"),
            (["keys", "env:NOWHERE"], "the environment variable NOWHERE is not set"),
            (["show", "42"], "which storage?"),
            (["show"], "required: KEY"),
            (["frobnicate"], "invalid choice: 'frobnicate'"),
            (["keys", "memory:", "-100:7"], "unrecognized arguments: -100:7"),
            (["keys", "memory:", "--frob"], "unrecognized arguments: --frob"),
            (["copy", "memory:"], "required: TARGET"),
            (["seal", "memory:"], "required: --key-file"),
        ],
    )
    def test_misuse_is_explained(self, run, arguments, problem):
        result = run(*arguments)

        assert (2, "") == (result.status, result.out)
        assert problem in result.err.splitlines()[-1]

    @pytest.mark.parametrize("url", ["nothing", "nix:", "sqlite:bot.db?crate=1", "memory:there"])
    def test_a_wrong_url_is_misuse(self, run, url):
        result = run("keys", url)

        assert (2, "", 1) == (result.status, result.out, lines(result.err))

    @pytest.mark.parametrize(
        "url",
        ["redis://bot:hunter2@127.0.0.1:1/0", "postgresql://bot:hunter2@127.0.0.1:1/bot"],
    )
    @pytest.mark.parametrize("command", [["check"], ["show", "42"], ["copy", "memory:"]], ids=lambda c: c[0])
    def test_an_outage_is_one_line_without_the_password(self, run, url, command):
        result = run(command[0], url, *command[1:])

        assert (1, "", 1) == (result.status, result.out, lines(result.err))
        assert "hunter2" not in result.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["URL"],
            ["URL", "keys"],
            ["keys", "memory:", "URL"],
            ["keys", "memory:", "--frob=URL"],
            ["keys", "env:URL"],
            ["show", "memory:", "URL"],
            ["delete", "memory:", "URL"],
            ["seal", "memory:", "--key-file", "URL"],
        ],
        ids=" ".join,
    )
    @pytest.mark.parametrize(
        "url",
        [
            "redis://bot:hunter2@localhost/0",
            "redis://localhost/0?password=hunter2",
            "mongodb+srv://bot:my hunter2@localhost",
            "redis://bot:hunter2?@localhost redis://bot:hunter2@localhost",
        ],
    )
    def test_a_url_in_a_wrong_place_is_told_without_the_password(self, run, arguments, url):
        result = run(*(word.replace("URL", url) for word in arguments))

        assert result.status in {1, 2}
        assert "://" in result.err
        assert "hunter2" not in result.out + result.err

    def test_after_two_minuses_no_word_is_an_option(self, run, fill, monkeypatch):
        fill("sqlite:bot.db", {key: f'"{key}"' for key in ("-abc", "--json", "--", "-5")})
        monkeypatch.setenv("BOT_SESSION_URL", "sqlite:bot.db")

        for key in ("-abc", "--json", "--", "-5"):
            assert Result(0, f'"{key}"\n', "") == run("show", "--", key)
            assert Result(0, f'"{key}"\n', "") == run("show", "sqlite:bot.db", "--", key)
            assert Result(0, f'"{key}"\n', "") == run("show", "--", "sqlite:bot.db", key)
        assert Result(1, "", "bot-session: nothing is stored under '-frob'\n") == run("delete", "--", "-frob")

    def test_without_arguments_it_helps(self, run):
        assert run("--help").out == run().out != ""
        assert 0 == run().status

    def test_version(self, run):
        from bot_session import __version__

        assert Result(0, f"bot-session {__version__}\n", "") == run("--version")

    @pytest.mark.parametrize("sessions", [1, 20_000])
    def test_output_that_nobody_reads_is_no_error_to_shout_about(self, fill, sessions):
        fill("sqlite:bot.db", {str(n): "1" for n in range(sessions)})
        reader, writer = os.pipe()
        os.close(reader)

        result = subprocess.run(
            [*COMMAND, "keys", "sqlite:bot.db"], check=False, stdout=writer, stderr=-1, text=True, timeout=60
        )
        os.close(writer)

        assert (141, "") == (result.returncode, result.stderr)

    @pytest.mark.skipif(os.name == "nt", reason="the redirections are written for sh")
    @pytest.mark.parametrize(("command", "unbuffered"), [(["keys"], "1"), (["show", "42"], ""), (["generate-key"], "")])
    @pytest.mark.parametrize(
        ("redirection", "problem"),
        [(">&-", "is closed"), (">/dev/full", "cannot be written: No space left on device")],
    )
    def test_an_output_that_takes_nothing_is_an_error(self, fill, command, redirection, problem, unbuffered):
        if redirection.endswith("full") and not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full here")
        fill("sqlite:bot.db", {"42": "1"})

        result = redirected(command, redirection, BOT_SESSION_URL="sqlite:bot.db", PYTHONUNBUFFERED=unbuffered)

        assert (1, f"bot-session: the standard output {problem}\n") == (result.returncode, result.stderr)

    @pytest.mark.skipif(os.name == "nt", reason="the redirections are written for sh")
    def test_without_an_output_nothing_is_begun(self, run, bot):
        assert 1 == redirected(["delete", bot, "42"], ">&-").returncode
        assert Result(0, "3\n", "") == run("count", bot)

    @pytest.mark.skipif(os.name == "nt", reason="the redirections are written for sh")
    def test_errors_that_cannot_be_told_change_no_exit_code(self, bot):
        assert [(0, ""), (1, ""), (1, ""), (1, "")] == [
            (result.returncode, result.stderr)
            for result in (
                redirected(["check", bot], "2>&-"),
                redirected(["show", bot, "5"], "2>&-"),
                redirected(["show", bot, "5"], "2>/dev/null >&-"),
                redirected(["show", bot, "42"], ">&- 2>&-"),
            )
        ]

    def test_an_interrupt_ends_it(self, tmp_path):
        (tmp_path / "slow.py").write_text(SLOW)

        with subprocess.Popen([sys.executable, "slow.py"], stdout=-1, stderr=-1, text=True) as process:
            assert "waiting\n" == process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)

        assert (130, "closed\n", "bot-session: interrupted\n") == (process.returncode, out, err)

    def test_progress_is_for_those_who_look(self, bot):
        looking, terminal = pytest.importorskip("pty").openpty()
        result = subprocess.run(
            [*COMMAND, "count", bot], stdout=subprocess.PIPE, stderr=terminal, text=True, check=True, timeout=60
        )
        os.close(terminal)

        assert "3\n" == result.stdout
        assert b"\r1 sessions \xe2\x80\xa6\x1b[K\r\x1b[K" == os.read(looking, 1000)
        os.close(looking)

    def test_the_script_is_installed(self):
        from importlib.metadata import entry_points

        (script,) = entry_points(group="console_scripts", name="bot-session")

        assert main is script.load()


class TestDocs:
    GUIDE = Path(__file__).parents[2] / "docs" / "operating.md"

    @pytest.mark.skipif(os.name == "nt", reason="the guide is written for sh")
    def test_the_commands_of_the_guide_say_what_it_says(self, fill, tmp_path):
        documents = {"-1001234567890": '{"count":7,"topping":"Käse 🧀"}', "42": '{"count":1}', "43": '{"count":2}'}
        fill("sqlite:bot.db", documents)
        blocks = re.findall(r"^```console\n(.*?)^```$", self.GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        transcript = "".join(blocks)
        commands = re.findall(r"^\$ (.*)$", transcript, re.MULTILINE)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

        # Each command is written before it is run, as a terminal shows it.
        script = "".join(f"printf '%s\\n' {shlex.quote('$ ' + command)}\n{command}\n" for command in commands)
        shell = subprocess.run(
            ["sh", "-e"],
            check=False,
            input=script,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=100,
        )

        assert transcript == shell.stdout
        assert len(commands) > 10
        assert 0 == shell.returncode


SLOW = """
import asyncio, sys
from bot_session import MemoryStorage, register_storage
from bot_session.cli import main

class Slow(MemoryStorage):
    async def check(self):
        print("waiting", flush=True)
        await asyncio.Event().wait()
    async def _close(self):
        print("closed", flush=True)

register_storage("slow", Slow)
Slow.from_url = classmethod(lambda cls, url: cls())
sys.exit(main(["check", "slow:"]))
"""


def redirected(command, redirection, **environment):
    """Run the command in a process of its own, with its outputs redirected as in a shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *command],
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def sorted_lines(result):
    return Result(result.status, "".join(sorted(result.out.splitlines(keepends=True))), result.err)


def both(result):
    """The output, and a flag for looking at its lines."""
    return result.out, re.MULTILINE


def lines(text):
    return len(text.splitlines())


async def read(url, key, seal):
    async with open_storage(url) as storage:
        return await Sessions(storage, seal=seal).read(key)
