"""
`state.json` in the user's state folder: what was switched at run time, kept across restarts (contracts 11).

    {"version": 1, "gateways": {"7367": {"pause": ..., "bypass": ..., "added": [...], "forgotten": [...]}}}

Gateways of one user are told apart by the port that their settings name, so that a pause of one does not
come back at another; one on a port of chance keeps nothing, since it could never find it again. The file is
replaced whole, under a lock, and one that cannot be read is set aside: it never keeps a gateway from starting.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.adapters.files import one_at_a_time, write_atomically
from penstock.adapters.folders import state_folder
from penstock.switches import Switches, from_document, to_document

_VERSION = 1
_LARGEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """
    What was found.

    Attributes:
        notice: what a person should know, None for nothing.
    """

    switches: Switches
    notice: str | None = None


def state_path() -> Path:
    """Where it is, whether it exists or not."""
    return state_folder() / "state.json"


def read(port: int, path: Path | None = None, *, mend: bool = True) -> Kept:
    """
    What was switched at the gateway on *port* before it ended.

    Args:
        port: as the settings name it; 0 keeps nothing.
        mend: set a file aside that cannot be used; False for those who only look.
    """
    if port == 0:
        return Kept(Switches())
    path = path or state_path()
    try:
        return Kept(from_document(_gateways(path).get(str(port), {})))
    except FileNotFoundError:
        return Kept(Switches())
    except OSError as exc:
        return Kept(Switches(), f"{path} cannot be read: {exc.strerror}; nothing is switched.")
    except (ValueError, RecursionError) as exc:
        told = _set_aside(path) if mend else f"{path} cannot be used"
        return Kept(Switches(), f"{told} ({exc}); nothing is switched.")


def write(port: int, switches: Switches, path: Path | None = None) -> None:
    """
    Keep *switches*; what other gateways keep stays.

    Raises:
        OSError: it cannot be kept (no room, no right).
    """
    if port == 0:
        return
    path = path or state_path()
    with one_at_a_time(path.parent):
        try:
            gateways = _gateways(path)
        except FileNotFoundError:
            gateways = {}
        except (ValueError, RecursionError):
            _set_aside(path)
            gateways = {}
        gateways[str(port)] = to_document(switches)
        value = {"version": _VERSION, "gateways": gateways}
        write_atomically(path, json.dumps(value, indent=2).encode("utf-8") + b"\n")


def _gateways(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError("it is far too large")
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict) or not isinstance(value.get("gateways"), dict):
        raise ValueError("it holds something else")
    if value.get("version") != _VERSION:
        raise ValueError(f"its version is {value.get('version')!r}, not {_VERSION}")
    gateways: dict[str, Any] = value["gateways"]
    return gateways


def _set_aside(path: Path) -> str:
    aside = path.with_name(f"{path.name}.broken")
    try:
        path.replace(aside)
    except OSError as exc:
        return f"{path} cannot be used and not be set aside ({exc.strerror})"
    return f"{path} could not be used and was set aside as {aside.name}"
