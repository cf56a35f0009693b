"""docs/clients.md names every client and everything that one of them is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.clients import CLIENTS, ClientSpec, Connection, Model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
MODEL = Model("m", 131_072, None, "running")
TO = Connection("http://127.0.0.1:7367", MODEL, (MODEL,), "sk-1")


@pytest.mark.parametrize("spec", CLIENTS, ids=lambda s: s.name)
def test_every_client_and_all_that_it_gets_stands_on_the_page(spec: ClientSpec) -> None:
    """By its variables and the names of its settings, and with its own tokens."""
    setup = spec.setup(TO)
    assert f"`{spec.name}`" in PAGE
    assert not spec.own_tokens or f"| {spec.own_tokens:,}" in PAGE
    given = set(setup.environment)
    if setup.launch is not None:
        given |= set(setup.launch.environment)
    given |= {
        part
        for file in setup.files
        for setting in file.settings
        for part in setting.path
        if isinstance(part, str) and not setting.if_absent and "/" not in part
    }
    assert [name for name in sorted(given) if name not in PAGE] == []
