"""
What coding agents and chat apps get to work with a gateway: one table of clients, one module for each.

Decisions only: `setup` of a client goes from a connection to its variables and settings, `edits` puts settings
into the text of a file and takes them out again, `check` says what does not fit. Files, processes and the
gateway are the business of `penstock.adapters.client_files` and of the command.

Adding a client is adding a module with one `ClientSpec`, and naming it here.
"""

from __future__ import annotations

from penstock.clients import (
    aider,
    claude_code,
    cline,
    codex,
    continue_dev,
    environment,
    litellm,
    open_webui,
    opencode,
    qwen_code,
    zed,
)
from penstock.clients.base import (
    ClientFile,
    ClientSpec,
    Connection,
    Folder,
    Launch,
    Model,
    Setup,
    Traces,
)
from penstock.clients.check import Connected, Remark, doubts, remarks
from penstock.clients.choose import NoModel, choose, read_models
from penstock.clients.edits import Setting, Undo, apply, take_back
from penstock.clients.paths import CannotEdit

CLIENTS: tuple[ClientSpec, ...] = (
    claude_code.SPEC,
    codex.SPEC,
    opencode.SPEC,
    qwen_code.SPEC,
    cline.SPEC,
    continue_dev.SPEC,
    aider.SPEC,
    open_webui.SPEC,
    zed.SPEC,
    litellm.SPEC,
    environment.SPEC,
)


def client_named(name: str) -> ClientSpec | None:
    """The client that a user means."""
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    for spec in CLIENTS:
        if wanted in (spec.name, spec.title.lower().replace(" ", "-"), *spec.also):
            return spec
    return None


__all__ = [
    "CLIENTS",
    "CannotEdit",
    "ClientFile",
    "ClientSpec",
    "Connected",
    "Connection",
    "Folder",
    "Launch",
    "Model",
    "NoModel",
    "Remark",
    "Setting",
    "Setup",
    "Traces",
    "Undo",
    "apply",
    "choose",
    "client_named",
    "doubts",
    "read_models",
    "remarks",
    "take_back",
]
