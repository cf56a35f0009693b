"""Variables are printed as a shell takes them, whatever stands in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.clients.shell import Shell, exports, quoted, shell_named

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@pytest.mark.skipif(os.name == "nt", reason="platform: a POSIX shell is needed")
@settings(max_examples=25)
@given(VALUES)
def test_a_real_shell_gives_the_value_back(value: str) -> None:
    """Spaces, quotes, dollars and line ends included."""
    code = "import json, os; print(json.dumps(os.environ['X']))"
    script = f"{exports({'X': value})}exec {quoted(sys.executable)} -c {quoted(code)}"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, check=True, env={"PYTHONUTF8": "1"}
    )
    assert json.loads(done.stdout) == value


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("posix", "export A='it'\"'\"'s'\n"),
        ("fish", "set -gx A 'it\\'s'\n"),
        ("powershell", "$env:A = 'it''s'\n"),
    ],
)
def test_each_shell_has_its_own_form(shell: Shell, line: str) -> None:
    """With its own way to write a quote."""
    assert exports({"A": "it's"}, shell) == line


@pytest.mark.parametrize(
    ("path", "on_windows", "shell"),
    [("/bin/bash", False, "posix"), ("/usr/bin/fish", False, "fish"), ("", False, "posix"), ("", True, "powershell"),
     ("C:\\Program Files\\PowerShell\\7\\pwsh.exe", True, "powershell")],
)  # fmt: skip
def test_shells_by_their_path(path: str, on_windows: bool, shell: Shell) -> None:
    """`SHELL` names it; on Windows without one it is PowerShell."""
    assert shell_named(path, on_windows=on_windows) == shell
