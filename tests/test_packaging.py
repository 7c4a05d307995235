"""What all distributions have in common, read from their files."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = tomllib.loads((ROOT / "core/pyproject.toml").read_text())["project"]
ADAPTERS = {
    file.parent.name: tomllib.loads(file.read_text())["project"] for file in ROOT.glob("packages/*/pyproject.toml")
}
LOCK_FILES = {"uv.lock", "pdm.lock", "poetry.lock", "Pipfile.lock", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"}
# In two halves, so that this file has none of them.
REGISTRIES = re.compile(
    "|".join(["files.python" + "hosted", "registry.npm" + "js", "registry.yarn" + "pkg", "index.crates" + r"\.io"])
)


def tracked():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a checkout: these are rules about what is in git")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


class TestTheCheckout:
    def test_has_no_lock_file_and_names_no_registry_host(self):
        for file in tracked():
            assert file.name not in LOCK_FILES
            assert not REGISTRIES.search(file.read_text("utf-8", errors="replace")), file

    def test_pins_are_names_and_versions_and_nothing_else(self):
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]

        assert pins
        assert [] == [line for line in pins if not re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*==[\w.!+]+", line)]
        assert sorted(pins) == sorted({pin.split("==")[0]: pin for pin in pins}.values())


@pytest.mark.parametrize("folder", ADAPTERS)
class TestAnAdapter:
    def test_is_named_after_its_folder_and_has_the_version_of_the_core(self, folder):
        assert (f"bot-session-{folder}", CORE["version"]) == (ADAPTERS[folder]["name"], ADAPTERS[folder]["version"])

    def test_bounds_the_core_by_the_minor_version_and_drivers_from_below_only(self, folder):
        major, minor = CORE["version"].split(".")[:2]
        core, *drivers = ADAPTERS[folder]["dependencies"]

        assert f"bot-session>={major}.{minor},<{major}.{int(minor) + 1}" == core
        assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", driver) for driver in drivers)

    def test_is_presented_like_the_core(self, folder):
        for field in ("license", "license-files", "requires-python", "readme", "classifiers"):
            assert CORE[field] == ADAPTERS[folder][field]
        assert (ROOT / "LICENSE").read_text() == (ROOT / "packages" / folder / "LICENSE").read_text()

    def test_is_in_the_changelog(self, folder):
        assert f"**{ADAPTERS[folder]['name']}**" in (ROOT / "CHANGELOG.md").read_text()
