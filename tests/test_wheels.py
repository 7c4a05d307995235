"""Every distribution is built, and its wheel works alone in a clean environment."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [Path("core"), *sorted(file.parent.relative_to(ROOT) for file in ROOT.glob("packages/*/pyproject.toml"))]
PROJECTS = {folder: tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS}
CORE, *ADAPTERS = FOLDERS
URLS = {"file": "file:sessions", "sqlite": "sqlite:bot.db", "supabase": "supabase://localhost?key=k"}

OPEN = """
import json, sys
from bot_session import ConfigurationError, open_storage

def opened(url):
    try:
        storage = open_storage(url)
    except ConfigurationError as error:
        return str(error)
    return f"{type(storage).__module__.split('.')[0]}:{type(storage).__name__}"

print(json.dumps([opened(url) for url in sys.argv[1:]]))
"""
REMEMBER = """
import asyncio, json, sys
from bot_session import Sessions, open_storage

async def main():
    async with open_storage(sys.argv[1]) as storage:
        sessions = Sessions(storage, initial=dict)
        async with sessions.open("1") as session:
            session.data["pizzas"] = 2
        print(json.dumps(await sessions.read("1")))

asyncio.run(main())
"""


def urls(folder):
    """A URL for each scheme that an adapter names."""
    schemes = PROJECTS[folder]["entry-points"]["bot_session.storages"]
    return [URLS.get(scheme, f"{scheme}://localhost/bot") for scheme in schemes]


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, **options).stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function from a folder to its wheel, which was made from its sdist, which lies beside it."""
    built = {}

    def build(folder):
        if folder not in built:
            source, target = tmp_path_factory.mktemp("source") / folder.name, tmp_path_factory.mktemp("dist")
            shutil.copytree(ROOT / folder, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
            (built[folder],) = target.glob("*.whl")
        return built[folder]

    return build


@pytest.fixture
def install(tmp_path):
    """A function that installs wheels into a clean environment and returns its Python."""

    def install(*wheels):
        uv, python = shutil.which("uv") or Path(sys.executable).with_name("uv"), tmp_path / "clean/bin/python"
        run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "clean")
        run(uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", *wheels)
        return python

    return install


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_wheel_has_types_and_a_license_and_no_tests(build, folder):
    wheel, project = build(folder), PROJECTS[folder]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(archive.read(metadata).decode())
    package = project["name"].replace("-", "_")

    assert {package, metadata.split("/")[0]} == {name.split("/")[0] for name in names}
    assert {f"{package}/py.typed", metadata.replace("METADATA", "licenses/LICENSE")} <= set(names)
    assert not [name for name in names if re.search(r"(^|/)(tests/|test_|conftest)", name)]
    assert (project["name"], PROJECTS[CORE]["version"], "MIT") == (
        told["Name"], told["Version"], told["License-Expression"]
    )  # fmt: skip
    assert told["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_an_sdist_can_be_built_and_read_without_the_repository(build, folder):
    (sdist,) = build(folder).parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"LICENSE", "README.md", "PKG-INFO", "pyproject.toml"} <= names


class TestAlone:
    def test_the_core_remembers_and_names_the_package_that_is_missing(self, build, install, tmp_path):
        python = install(build(CORE))
        missing = [(PROJECTS[folder]["name"], url) for folder in ADAPTERS for url in urls(folder)]
        told = json.loads(run(python, "-c", OPEN, *(url for _, url in missing), cwd=tmp_path))

        assert {"pizzas": 2} == json.loads(run(python, "-c", REMEMBER, "memory:", cwd=tmp_path))
        assert all(f"pip install {name}" in message for (name, _), message in zip(missing, told, strict=True)), told

    @pytest.mark.parametrize("folder", ADAPTERS, ids=str)
    def test_an_adapter_is_found_by_every_scheme(self, build, install, tmp_path, folder):
        python = install(build(CORE), build(folder))
        classes = [*PROJECTS[folder]["entry-points"]["bot_session.storages"].values()]

        assert classes == json.loads(run(python, "-c", OPEN, *urls(folder), cwd=tmp_path))

    @pytest.mark.parametrize("scheme", ["file", "sqlite"])
    def test_what_needs_no_server_remembers(self, build, install, tmp_path, scheme):
        python = install(build(CORE), build(Path("packages") / f"storage-{scheme}"))

        assert {"pizzas": 2} == json.loads(run(python, "-c", REMEMBER, URLS[scheme], cwd=tmp_path))
