"""What GitHub reads: valid, pinned, with no more rights than needed, and up to date with the folders."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
SCHEMAS = {
    "vendor.github-workflows": "workflows/*.yml",
    "custom.github-workflows-require-timeout": "workflows/*.yml",
    "vendor.dependabot": "dependabot.yml",
    "vendor.github-issue-forms": "ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": "ISSUE_TEMPLATE/config.yml",
}


def load(name):
    return YAML(typ="safe").load(GITHUB / name)


def jobs():
    return [(file.stem, name, job) for file in WORKFLOWS for name, job in load(file)["jobs"].items()]


def steps():
    return [step for _, _, job in jobs() for step in job.get("steps", ())]


def script(workflow, job, id):  # noqa: A002
    return next(step for step in load(f"workflows/{workflow}.yml")["jobs"][job]["steps"] if step.get("id") == id)["run"]


def run(script, folder, **environment):
    """Run a step of a workflow; what it leaves in GITHUB_OUTPUT and GITHUB_ENV, as a dict."""
    left = folder / "left"
    left.touch()
    environment = {**os.environ, "GITHUB_OUTPUT": str(left), "GITHUB_ENV": str(left), **environment}
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, check=True)
    return dict(line.split("=", 1) for line in left.read_text().splitlines())


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_keep_their_schema(schema):
    files = sorted(map(str, GITHUB.glob(SCHEMAS[schema])))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files],
        capture_output=True,
        text=True,
        check=False,
    )

    assert files
    assert (0, "") == (done.returncode, done.stderr), done.stdout


class TestRights:
    def test_a_workflow_has_none_and_a_job_may_read(self):
        assert [{}] * len(WORKFLOWS) == [load(file)["permissions"] for file in WORKFLOWS]
        more = {
            (file, name): job["permissions"] for file, name, job in jobs() if job["permissions"] != {"contents": "read"}
        }

        assert {("release", "publish"): {"id-token": "write"}} == more

    def test_no_checkout_leaves_credentials(self):
        checkouts = [step["with"] for step in steps() if step.get("uses", "").startswith("actions/checkout@")]

        assert checkouts
        assert all(options["persist-credentials"] is False for options in checkouts)

    def test_no_secret_is_used_and_nothing_is_put_into_a_script_unquoted(self):
        assert not any("secrets." in file.read_text() for file in WORKFLOWS)
        assert not any("${{" in step.get("run", "") for step in steps())


def test_actions_are_pinned_by_commit_each_to_one():
    uses = [line for file in WORKFLOWS for line in file.read_text().splitlines() if " uses: " in line]
    pinned = [re.fullmatch(r"\s+(?:- )?uses: ([\w/-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line) for line in uses]
    local = [line for line in uses if "uses: ./.github/workflows/" in line]

    assert len(uses) == len(local) + sum(map(bool, pinned))
    commits = {(match[1], match[2]) for match in pinned if match}
    assert len(commits) == len({action for action, _ in commits})


def test_a_newer_push_ends_the_run_of_an_older_one_but_never_a_release():
    ends = {file.stem: load(file)["concurrency"]["cancel-in-progress"] for file in WORKFLOWS}
    groups = {load(file)["concurrency"]["group"] for file in WORKFLOWS}

    assert {"tests": True, "wheels": True, "nightly": True, "release": False} == ends
    assert len(WORKFLOWS) == len(groups)


class TestMatrix:
    def test_the_packages_are_those_that_are_there(self, tmp_path):
        names = ["storage-b", "storage-a"]
        for name in names:
            (tmp_path / "packages" / name).mkdir(parents=True)
            (tmp_path / "packages" / name / "pyproject.toml").touch()
        (tmp_path / "packages" / "leftover").mkdir()
        found = json.loads(run(script("tests", "find", "find"), tmp_path)["folders"])

        assert ["core", "packages/storage-a", "packages/storage-b"] == found
        matrix = load("workflows/tests.yml")["jobs"]["packages"]["strategy"]["matrix"]
        assert "${{ fromJSON(needs.find.outputs.folders) }}" == matrix["folder"]

    def test_every_python_that_a_package_names_is_tested(self):
        matrix = load("workflows/tests.yml")["jobs"]["packages"]["strategy"]["matrix"]
        for file in [ROOT / "core/pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
            text = "".join(tomllib.loads(file.read_text())["project"]["classifiers"])

            assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", text), file

    def test_every_version_of_a_server_is_tested(self, tmp_path):
        services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
        versions = {
            name: service["image"] for name, service in services.items() if "versions" in service.get("profiles", ())
        }
        matrix = load("workflows/tests.yml")["jobs"]["servers"]["strategy"]["matrix"]["include"]
        shutil.copy(ROOT / "docker-compose.yml", tmp_path)

        assert sorted(versions) == sorted(row["service"] for row in matrix)
        for row in matrix:
            (tmp_path / "left").unlink(missing_ok=True)
            variables = {"SERVICE": row["service"], "INSTEAD_OF": row["instead-of"]}
            expected = {f"BOT_SESSION_TEST_{row['instead-of']}_IMAGE": versions[row["service"]]}

            assert expected == run(script("tests", "servers", "image"), tmp_path, **variables)
            assert row["instead-of"].lower() in services
            assert (ROOT / row["folder"]).is_dir()


class TestNightly:
    def test_a_variable_that_asks_for_more_is_read_by_a_file_that_runs(self):
        job = load("workflows/nightly.yml")["jobs"]["long"]
        files = [ROOT / name for name in job["strategy"]["matrix"]["file"]]
        variables = [name for name in job["steps"][-1]["env"] if name.startswith("BOT_SESSION_TEST_")]
        read = [re.findall(r'environ\.get\("(\w+)"', file.read_text()) for file in files]

        assert [[name] for name in variables] == read

    def test_every_target_of_fuzzing_has_its_turn(self):
        job = load("workflows/nightly.yml")["jobs"]["fuzz"]
        targets = re.search(r"^TARGETS = .* in \((.*)\)\}$", (ROOT / "fuzz/targets.py").read_text(), re.MULTILINE)

        assert sorted(targets[1].split(", ")) == job["strategy"]["matrix"]["target"]


class TestRelease:
    @pytest.fixture
    def project(self, tmp_path):
        for file in [ROOT / "core/pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True)
            text = re.sub('^version = ".*"', 'version = "0.4.1"', file.read_text(), flags=re.MULTILINE)
            copy.write_text(re.sub('"bot-session>=[^"]*"', '"bot-session>=0.4,<0.5"', text))
        (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 0.4.1 - 2031-02-03\n")
        return tmp_path

    def check(self, project, tag):
        command = [sys.executable, GITHUB / "release.py", tag]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    def test_all_distributions_are_released_the_core_first(self, project):
        done = self.check(project, "v0.4.1")
        found = json.loads(done.stdout.removeprefix("distributions="))

        assert ("bot-session", len(list(ROOT.glob("packages/*/pyproject.toml")))) == (found[0], len(found) - 1)

    @pytest.mark.parametrize(
        ("file", "old", "new", "said"),
        [
            ("CHANGELOG.md", "0.4.1", "0.4.0", "CHANGELOG.md has no heading"),
            ("core/pyproject.toml", "0.4.1", "0.4.0", "bot-session has version 0.4.0"),
            ("packages/storage-redis/pyproject.toml", "0.4.1", "0.4.0", "bot-session-storage-redis has version 0.4.0"),
            ("packages/storage-redis/pyproject.toml", "<0.5", "<0.4", "bot-session-storage-redis does not depend on"),
        ],
    )
    def test_what_disagrees_with_the_tag_is_named(self, project, file, old, new, said):
        (project / file).write_text((project / file).read_text().replace(old, new))
        done = self.check(project, "v0.4.1")

        assert (1, "") == (done.returncode, done.stdout)
        assert said in done.stderr

    def test_another_tag_is_no_release(self, project):
        assert 1 == self.check(project, "v0.4.2").returncode
