"""
What of requirements.lock a part of Penstock needs, as a requirements file with hashes of its own.

    python3 .ci/locked.py --extra operator xllamacpp

prints the base dependencies of pyproject.toml, those of the extra `operator`, the package `xllamacpp`, and all that
they stand on; with `--only` just the packages named. The lock says below each package who wants it ("via"), so no
resolver and no network are asked. The container image is built from this, while the lock stays one.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_PROJECT = "penstock"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description="Print the part of requirements.lock that is needed.")  # fmt: skip
    parser.add_argument("--extra", action="append", default=[], help="of pyproject.toml")
    parser.add_argument("--only", action="store_true", help="not Penstock's own dependencies")
    parser.add_argument("packages", nargs="*")
    asked = parser.parse_args()
    root = Path(__file__).resolve().parent
    if not (root / "requirements.lock").is_file():
        root = root.parent
    wanted = {_plain(name) for name in asked.packages}
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    if not asked.only:
        wanted |= {_plain(one) for one in project["dependencies"]}
    for extra in asked.extra:
        wanted |= {_plain(one) for one in project["optional-dependencies"][extra]}
    entries = list(_entries((root / "requirements.lock").read_text("utf-8")))
    missing = wanted - {name for name, _, _ in entries}
    if missing:
        raise SystemExit(f"requirements.lock lacks {', '.join(sorted(missing))}.")
    before = 0
    while len(wanted) > before:
        before = len(wanted)
        wanted |= {name for name, wanted_by, _ in entries if wanted_by & wanted}
    for name, _, text in entries:
        if name in wanted:
            print(text, end="")


def _plain(requirement: str) -> str:
    """The normal form of the name that a requirement begins with."""
    found = _NAME.match(requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def _entries(lock: str) -> Iterator[tuple[str, set[str], str]]:
    """(name, who wants it, its lines) of each package."""
    for text in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        wanted_by = set()
        for line in text.splitlines():
            if line.lstrip().startswith("#"):
                said = line.strip(" #").removeprefix("via").strip()
                if said and not said.startswith(_PROJECT):
                    wanted_by.add(_plain(said))
        yield _plain(text), wanted_by, text


if __name__ == "__main__":
    main()
