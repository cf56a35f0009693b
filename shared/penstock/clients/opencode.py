"""
opencode: a provider in `opencode.json`, with the window of each model.

It does not ask a server for its models or windows: `limit.context` is all it knows, and without it it never
compacts. `timeout: false` takes its limit for whole requests away, `chunkTimeout` counts bytes, so heartbeats
keep it content. `small_model` makes titles with the same model, where they would go to another provider.
`OPENCODE_CONFIG_CONTENT` hands the same over without a file (`--run`).

Sources: anomalyco/opencode, packages/opencode/src/config/provider.ts (`limit`, `timeout`, `headerTimeout`,
`chunkTimeout`); opencode.ai/docs/providers (custom provider), opencode.ai/docs/config (places, variables).
"""

from __future__ import annotations

import json
from typing import Any

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
from penstock.clients.edits import Setting

FOLDER = Folder(home=(".config", "opencode"), variable="XDG_CONFIG_HOME", inside=("opencode",))
SCHEMA = "https://opencode.ai/config.json"


def _model(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = {"name": model.id, "tool_call": True}
    if model.window is not None:
        found["limit"] = {"context": model.window, "output": model.output_tokens}
    return found


def provider(connection: Connection) -> dict[str, Any]:
    """The provider's entry."""
    return {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Penstock",
        "options": {
            "baseURL": connection.openai_url,
            "apiKey": connection.any_key,
            "timeout": False,
            "headerTimeout": False,
            "chunkTimeout": 1_800_000,
        },
        "models": {model.id: _model(model) for model in connection.models},
    }


def setup(connection: Connection) -> Setup:
    """What opencode gets."""
    name = f"penstock/{connection.model.id}"
    settings = (
        Setting(("$schema",), SCHEMA, "editors complete by it", if_absent=True),
        Setting(("provider", "penstock"), provider(connection),
                "address, windows as they run, no time-out of its own"),
        Setting(("model",), name, "the model"),
        Setting(("small_model",), name, "titles, by the same model"),
    )  # fmt: skip
    inline = {
        "provider": {"penstock": provider(connection)},
        "model": name,
        "small_model": name,
    }
    return Setup(
        environment={"OPENCODE_CONFIG_CONTENT": json.dumps(inline)},
        files=(ClientFile(FOLDER, ("opencode.json", "opencode.jsonc"), "json", settings),),
        launch=Launch("opencode", (), {"OPENCODE_CONFIG_CONTENT": json.dumps(inline)}),
    )


SPEC = ClientSpec(
    name="opencode",
    title="opencode",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("opencode",), (FOLDER,)),
    own_tokens=8_000,
    own_tokens_from="a first request of 30,703 characters (1.18.33)",
    sources=(
        "github.com/anomalyco/opencode: packages/opencode/src/config/provider.ts",
        "opencode.ai/docs/providers", "opencode.ai/docs/config",
    ),
)  # fmt: skip
