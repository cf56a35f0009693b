"""Where Penstock's files are: the user's configuration, state, cache and runtime folders."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "penstock"


def config_file() -> Path:
    """The user's `penstock.yaml`, whether it exists or not."""
    return Path(platformdirs.user_config_dir(_APP, appauthor=False)) / "penstock.yaml"


def state_folder() -> Path:
    """What is switched at run time is kept here."""
    return Path(platformdirs.user_state_dir(_APP, appauthor=False))


def log_folder() -> Path:
    """Logs of gateways and of the servers that they run; bounded."""
    return state_folder() / "log"


def cache_folder() -> Path:
    """What can be made again."""
    return Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def runtime_folder() -> Path:
    """
    Files of running gateways, for this user only.

    On Linux `XDG_RUNTIME_DIR`; without one (a bare container, a service) a folder in the state folder,
    for what stands in `/run/user` may belong to nobody there.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / _APP
    if os.name == "nt":
        return Path(platformdirs.user_runtime_dir(_APP, appauthor=False))
    return state_folder() / "run"
