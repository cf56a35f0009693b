"""Variables as lines for a shell: `export` for POSIX shells, `set -gx` for fish, `$env:` for PowerShell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Shell = Literal["posix", "fish", "powershell"]
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def shell_named(path: str, *, on_windows: bool = False) -> Shell:
    """Which kind a shell's path or name means (`/usr/bin/fish`)."""
    name = re.split(r"[/\\]", path.lower())[-1].removesuffix(".exe")
    if name == "fish":
        return "fish"
    if name in ("pwsh", "powershell") or (on_windows and not name):
        return "powershell"
    return "posix"


def exports(environment: Mapping[str, str], shell: Shell = "posix") -> str:
    """One line for each variable."""
    return "".join(f"{_line(name, value, shell)}\n" for name, value in environment.items())


def _line(name: str, value: str, shell: Shell) -> str:
    if shell == "fish":
        return f"set -gx {name} {_fish(value)}"
    if shell == "powershell":
        inner = value.replace("'", "''")
        return f"$env:{name} = '{inner}'"
    return f"export {name}={quoted(value)}"


def quoted(value: str) -> str:
    """As one word of a POSIX shell."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _fish(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
