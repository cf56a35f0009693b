"""
Continue: entries in the `models` of its `config.yaml`.

By OpenAI's dialect rather than Ollama's, where it sends a window and an unload time with each request. Without
`contextLength` it assumes 32,768 tokens. `requestOptions.timeout` is in seconds (two hours by default).

Sources: continuedev/continue, packages/config-yaml/src/schemas/models.ts (fields); docs.continue.dev/reference
(`name`, `version`, `schema` are needed at the top).
"""

from __future__ import annotations

from typing import Any

import yaml

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
from penstock.clients.paths import item

FOLDER = Folder(home=(".continue",), variable="CONTINUE_GLOBAL_DIR")


def entry(connection: Connection, model: Model) -> dict[str, Any]:
    """One model's entry."""
    completion: dict[str, Any] = {"maxTokens": model.output_tokens}
    if model.window is not None:
        completion = {"contextLength": model.window, **completion}
    return {
        "name": f"Penstock: {model.id}",
        "provider": "openai",
        "model": model.id,
        "apiBase": connection.openai_url,
        "apiKey": connection.any_key,
        "roles": ["chat", "edit", "apply"],
        "capabilities": ["tool_use"],
        "defaultCompletionOptions": completion,
        "requestOptions": {"timeout": 7200},
    }


def setup(connection: Connection) -> Setup:
    """What Continue gets."""
    entries = [entry(connection, model) for model in connection.models]
    whole = {"name": "Penstock", "version": "1.0.0", "schema": "v1", "models": entries}
    return Setup(
        files=(
            ClientFile(
                FOLDER,
                ("config.yaml", "config.yml"),
                "yaml",
                (
                    Setting(("name",), "Penstock", "the file needs one", if_absent=True),
                    Setting(("version",), "1.0.0", "the file needs one", if_absent=True),
                    Setting(("schema",), "v1", "the file needs one", if_absent=True),
                    *(
                        Setting(("models", item(name=made["name"])), made,
                                "address, window as it runs, output limit, patience")
                        for made in entries
                    ),
                ),
            ),
        ),
        launch=Launch(
            "cn",
            ("--config", "{config.yaml}"),
            files={"config.yaml": yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)},
        ),
        notes=(f"Choose the model in Continue: Penstock: {connection.model.id}.",),
    )  # fmt: skip


SPEC = ClientSpec(
    name="continue",
    title="Continue",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("cn",), (FOLDER,), ("continue.continue-",)),
    own_tokens=4_000,
    own_tokens_from="an estimate from its agent mode's tools; not measured here",
    sources=(
        "github.com/continuedev/continue: packages/config-yaml/src/schemas/models.ts",
        "docs.continue.dev/reference",
    ),
)  # fmt: skip
