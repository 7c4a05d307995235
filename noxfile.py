"""
What there is to do in this repository, one session each: `nox --list` lists them, `nox -s NAME` runs one.

Folders under packages/ are found, not listed: a new adapter is installed, tested, typed and built by being there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = [Path("core/src"), *(package / "src" for package in PACKAGES)]
CONTRACTS = [str(path) for path in sorted(ROOT.glob("packages/*/tests/test_*_contract.py"))]
OPTIONAL = nox.project.load_toml("core/pyproject.toml")["project"]["optional-dependencies"]
EXTRAS = ",".join(OPTIONAL)
FRAMEWORKS = ["aiogram", "telebot", "telegram"]
FRAMEWORK_TESTS = [
    str(path)
    for pattern in (
        "core/tests/test_aiogram*.py",
        "core/tests/test_tele*.py",
        "core/tests/test_botapi.py",
        "core/tests/test_with_session.py",
        "tests/test_examples_*.py",
        "tests/test_fsm_upstream.py",
        "tests/test_stock_bots.py",
        "tests/test_webhook_workers.py",
        "docs/frameworks.md",
    )
    for path in sorted(ROOT.glob(pattern))
]
GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install core and all packages, editable, and groups of third-party tools, as pinned in constraints.txt."""
    session.log("installing (the first time takes a minute)")
    ours = [argument for package in PACKAGES for argument in ("-e", f"./{package}")]
    tools = [tool for group in groups for tool in GROUPS[group]]
    session.install("--quiet", "-c", "constraints.txt", "-e", f"./core{extras}", *ours, *tools)


@nox.session
def demo(session: nox.Session) -> None:
    """Chat with a bot in the terminal, stop it, start it again: it remembers."""
    install(session, "demo", extras="[aiogram]")
    session.run("python", "examples/pizza_aiogram.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test: the contract on every storage with a real server, the examples, the docs."""
    install(session, "tests", "servers", "containers", "demo", extras=f"[{EXTRAS}]")
    # By file, since the examples of a document build on each other.
    arguments = session.posargs or ["-n", "auto", "--dist", "loadfile"]
    session.run("python", "-m", "pytest", *arguments)


@nox.session
def containers(session: nox.Session) -> None:
    """Run the contract of every adapter, with each server in a container; images are those of docker-compose.yml."""
    install(session, "tests", "containers", "demo", extras=f"[{EXTRAS}]")
    arguments = session.posargs or ["-n", "auto", *CONTRACTS]
    session.run("python", "-m", "pytest", *arguments, env={"BOT_SESSION_TEST_CONTAINERS": "1", "CI": "true"})


@nox.session
@nox.parametrize("versions", ["oldest", "newest"])
def frameworks(session: nox.Session, versions: str) -> None:
    """Run the tests of the bot frameworks' hooks, with the oldest or the newest frameworks that core's extras allow."""
    allowed = [requirement for extra in FRAMEWORKS for requirement in OPTIONAL[extra]]
    wanted = [requirement.replace(">=", "==") for requirement in allowed] if versions == "oldest" else allowed
    ours = [argument for package in PACKAGES for argument in ("-e", f"./{package}")]
    tools = [tool for group in ("tests", "servers", "demo") for tool in GROUPS[group]]
    # Without constraints.txt: what the frameworks need is theirs to say.
    session.install("--quiet", "--upgrade", "-e", "./core[testing,crypto]", *ours, *tools, *wanted)
    session.run("python", "-m", "pytest", *(session.posargs or FRAMEWORK_TESTS))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format; `nox -s lint -- fix` mends what can be mended."""
    session.install("--quiet", "-c", "constraints.txt", *GROUPS["lint"])
    fix = "fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy (strict) and pyright, and what bot authors see of them in typing_tests/."""
    install(session, "tests", "servers", "containers", "demo", "types", extras=f"[{EXTRAS}]")
    session.run("mypy", *map(str, SOURCES), "typing_tests", "examples")
    session.run("pyright", *map(str, SOURCES), "typing_tests")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with the bare drivers and the peers; `-- --quick --only redis` is a first look."""
    install(session, "servers", "bench", extras="[testing,aiogram]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Search for input that breaks a promise, 30 seconds for each target; `-- codec 600` searches one for longer."""
    install(session, "fuzz", extras="[crypto]")
    session.run("python", "fuzz/run.py", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every distribution, and install each wheel alone into a clean environment."""
    install(session, "tests", extras="[testing]")
    session.run("python", "-m", "pytest", "-v", "tests/test_wheels.py", *session.posargs)


@nox.session(reuse_venv=False)
def installed(session: nox.Session) -> None:
    """Run the contract of every adapter on the wheels in dist/, not on the sources; builds them if there are none."""
    tools = [tool for group in ("tests", "servers", "containers") for tool in GROUPS[group]]
    session.install("--quiet", "-c", "constraints.txt", *tools)
    if not any(ROOT.glob("dist/*.whl")):
        session.run("uv", "build", "--quiet", "--wheel", "--all-packages", "--out-dir", "dist")
    built = [
        f"{wheel}{'[testing]' if wheel.name.startswith('bot_session-') else ''}" for wheel in ROOT.glob("dist/*.whl")
    ]
    session.install("--quiet", "-c", "constraints.txt", *built)
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "auto", *CONTRACTS]))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(nox.main())
