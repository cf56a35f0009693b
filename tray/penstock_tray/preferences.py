"""
What a person chose for the tray, in `tray.json` of the state folder. It is read anew each time: menu and command line
change the same file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from penstock.adapters.files import write_atomically
from penstock.adapters.folders import state_folder


@dataclass(frozen=True, slots=True)
class Preferences:
    """
    Attributes:
        notifications: changes that last are shown as notifications.
    """

    notifications: bool = True


def load() -> Preferences:
    """What was chosen; the defaults where the file is not there or cannot be read."""
    try:
        value = json.loads((state_folder() / "tray.json").read_bytes())
        return Preferences(notifications=value["notifications"] is not False)
    except (OSError, ValueError, TypeError, KeyError):
        return Preferences()


def save(preferences: Preferences) -> None:
    """Keep it."""
    write_atomically(state_folder() / "tray.json", json.dumps(asdict(preferences)).encode())


def forget() -> None:
    """Back to the defaults, without a trace."""
    (state_folder() / "tray.json").unlink(missing_ok=True)
