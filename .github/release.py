"""
Say whether a tag may be released: ``python .github/release.py v0.1.0``.

All distributions have the tag's version, the adapters' bounds admit the core of that version, and the changelog tells
what is in it. Prints the distributions as a workflow's output, the core first; exits with what is wrong otherwise.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path


def main(tag: str, root: Path) -> None:
    """Check the project in ``root`` against ``tag``."""
    version = tag.removeprefix("v")
    major, minor = version.split(".")[:2]
    bound = f"bot-session>={major}.{minor},<{major}.{int(minor) + 1}"
    wrong = []
    if not re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    ):
        wrong.append(f'CHANGELOG.md has no heading "## {version} - <date>"')
    files = [root / "core/pyproject.toml", *sorted(root.glob("packages/*/pyproject.toml"))]
    projects = [tomllib.loads(file.read_text())["project"] for file in files]
    for project in projects:
        if project["version"] != version:
            wrong.append(f"{project['name']} has version {project['version']}")
        if project["name"] != "bot-session" and bound not in project["dependencies"]:
            wrong.append(f"{project['name']} does not depend on {bound}")
    if wrong:
        sys.exit("\n".join([f"{tag} cannot be released:", *wrong]))
    sys.stdout.write(f"distributions={json.dumps([project['name'] for project in projects])}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path.cwd())
