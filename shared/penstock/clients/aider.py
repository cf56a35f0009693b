"""
aider: `.aider.conf.yml` and `.aider.model.metadata.json` in the home folder.

As `openai/MODEL` and not as Ollama's, where LiteLLM asks for another window with every request, which reloads
the model each time. The metadata file is how it learns the window: it reports limits, it does not keep to them.
A `.aider.conf.yml` in a repository wins over the one in the home folder.

Sources: Aider-AI/aider, aider/website/docs/config/adv-model-settings.md (metadata, where it is looked for),
docs/config/options.md (names of options and variables), docs/llms/openai-compat.md.
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

HOME = Folder(home=())
_TIMEOUT_S = 3600


def metadata(model: Model) -> dict[str, Any]:
    """A model's entry in the metadata file."""
    limits = {"max_input_tokens": model.window} if model.window is not None else {}
    return {
        "max_tokens": model.output_tokens,
        **limits,
        "max_output_tokens": model.output_tokens,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }


def setup(connection: Connection) -> Setup:
    """What aider gets."""
    name = f"openai/{connection.model.id}"
    known = {f"openai/{model.id}": metadata(model) for model in connection.models}
    environment = {
        "AIDER_MODEL": name,
        "AIDER_WEAK_MODEL": name,
        "OPENAI_API_BASE": connection.openai_url,
        "OPENAI_API_KEY": connection.any_key,
        "AIDER_TIMEOUT": str(_TIMEOUT_S),
    }
    return Setup(
        environment=environment,
        files=(
            ClientFile(
                HOME,
                (".aider.conf.yml",),
                "yaml",
                (
                    Setting(("model",), name, "the model"),
                    Setting(("weak-model",), name, "commit messages and summaries"),
                    Setting(("openai-api-base",), connection.openai_url, "the gateway"),
                    Setting(("openai-api-key",), connection.any_key, "the key"),
                    Setting(("timeout",), _TIMEOUT_S, "an hour a request, for 10 minutes"),
                ),
            ),
            ClientFile(
                HOME,
                (".aider.model.metadata.json",),
                "json",
                tuple(
                    Setting((model,), entry, "the window as it runs, and the output limit")
                    for model, entry in known.items()
                ),
            ),
        ),
        launch=Launch(
            "aider",
            (),
            {**environment, "AIDER_MODEL_METADATA_FILE": "{metadata.json}"},
            files={"metadata.json": json.dumps(known, indent=2, ensure_ascii=False) + "\n"},
        ),
        notes=("A .aider.conf.yml in a repository wins over the one in your home folder.",),
    )


SPEC = ClientSpec(
    name="aider",
    title="aider",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("aider",)),
    own_tokens=4_000,
    own_tokens_from="an estimate from its prompts and a map of the repository of 1,024 tokens; not measured here",
    sources=(
        "github.com/Aider-AI/aider: aider/website/docs/config/adv-model-settings.md, options.md",
        "aider.chat/docs/llms/openai-compat.html",
    ),
)  # fmt: skip
