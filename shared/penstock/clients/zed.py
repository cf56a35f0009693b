"""
Zed: a provider under `language_models.openai_compatible` in its `settings.json`, which is JSON with comments.

`max_tokens` is the window there. The key never stands in the file: Zed reads it from a variable named after the
provider, or from the system's key store, where its own settings page puts it; without one it does not
ask the provider at all.

Sources: zed-industries/zed, docs/src/ai/use-api-access.md, "OpenAI-Compatible Endpoints" (fields, capabilities,
the variable's name).
"""

from __future__ import annotations

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
from penstock.clients.shell import quoted

FOLDER = Folder(
    home=(".config", "zed"),
    variable="XDG_CONFIG_HOME",
    inside=("zed",),
    windows=("AppData", "Roaming", "Zed"),
)
KEY_VARIABLE = "PENSTOCK_API_KEY"


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.id,
        "display_name": f"{model.id} (Penstock)",
        "max_tokens": model.window if model.window is not None else 32_768,
        "max_output_tokens": model.output_tokens,
        "capabilities": {
            "tools": True,
            "images": False,
            "parallel_tool_calls": False,
            "prompt_cache_key": False,
            "chat_completions": True,
        },
    }


def setup(connection: Connection) -> Setup:
    """What Zed gets."""
    return Setup(
        environment={KEY_VARIABLE: connection.any_key},
        files=(
            ClientFile(
                FOLDER,
                ("settings.json",),
                "json",
                (
                    Setting(
                        ("language_models", "openai_compatible", "penstock"),
                        {"api_url": connection.openai_url,
                         "available_models": [_model(model) for model in connection.models]},
                        "address, windows as they run (max_tokens), output limits",
                    ),
                    Setting(("agent", "default_model"),
                            {"provider": "penstock", "model": connection.model.id}, "the model"),
                ),
            ),
        ),
        launch=Launch("zed", (), {KEY_VARIABLE: connection.any_key},
                      without="Zed reads its models from its settings file only: --write first, then --run "
                              "gives it the key"),
        steps=(
            (f"Give Zed the key: agent: open settings, LLM Providers, penstock: {connection.any_key} (or start it with "
            f"{KEY_VARIABLE}={quoted(connection.any_key)})."),
        ),
    )  # fmt: skip


SPEC = ClientSpec(
    name="zed",
    title="Zed",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("zed", "zeditor"), (FOLDER,)),
    own_tokens=6_000,
    own_tokens_from="an estimate from its agent's prompt and tools; not measured here",
    sources=("github.com/zed-industries/zed: docs/src/ai/use-api-access.md",),
)
