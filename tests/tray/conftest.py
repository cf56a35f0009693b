"""A person with a desktop (`desktops`), for the tests here that run on real panels."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from desktops import Person, install, need


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Penstock, installed from the wheel where any user can read it."""
    need("Xvfb", "xdotool", "dbus-daemon", "openbox")
    place = Path(tempfile.mkdtemp(prefix="penstock-installed-"))
    yield install(place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def person(installed: Path) -> Iterator[Person]:
    """A user without rights, with an empty home."""
    home = Path(tempfile.mkdtemp(prefix="penstock-home-"))
    one = Person(home, installed)
    yield one
    one.end()
    shutil.rmtree(home, ignore_errors=True)
