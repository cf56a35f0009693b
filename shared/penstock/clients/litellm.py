"""
LiteLLM: entries in the `model_list` of its proxy's configuration. The file lies where its user put it, so
`--write` needs `--file`.

`max_retries: 0`, because the gateway has retried already; `model_info.id` names the entries as ours.

Sources: docs.litellm.ai/docs/proxy/configs (`model_list`, `litellm_params`, `model_info`),
docs.litellm.ai/docs/providers/openai_compatible (`openai/` before the model), docs.litellm.ai/docs/proxy/timeout.
"""

from __future__ import annotations

from typing import Any

import yaml

from penstock.clients.base import (
    ClientFile,
    ClientSpec,
    Connection,
    Launch,
    Model,
    Setup,
    Traces,
)
from penstock.clients.edits import Setting
from penstock.clients.paths import item


def entry(connection: Connection, model: Model) -> dict[str, Any]:
    """One model's entry."""
    limits = {"max_input_tokens": model.window} if model.window is not None else {}
    return {
        "model_name": model.id,
        "litellm_params": {
            "model": f"openai/{model.id}",
            "api_base": connection.openai_url,
            "api_key": connection.any_key,
            "timeout": 3600,
            "stream_timeout": 3600,
            "max_retries": 0,
        },
        "model_info": {
            "id": f"penstock/{model.id}",
            "mode": "chat",
            "max_tokens": model.output_tokens,
            **limits,
            "max_output_tokens": model.output_tokens,
            "supports_function_calling": True,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
        },
    }


def setup(connection: Connection) -> Setup:
    """What LiteLLM gets."""
    entries = [entry(connection, model) for model in connection.models]
    return Setup(
        files=(
            ClientFile(
                None,
                ("litellm.yaml",),
                "yaml",
                tuple(
                    Setting(("model_list", item(model_info__id=made["model_info"]["id"])), made,
                            "address, window as it runs, output limit, no retries on top of ours")
                    for made in entries
                ),
            ),
        ),
        launch=Launch(
            "litellm",
            ("--config", "{litellm.yaml}"),
            files={"litellm.yaml": yaml.safe_dump({"model_list": entries}, sort_keys=False,
                                                  allow_unicode=True)},
        ),
    )  # fmt: skip


SPEC = ClientSpec(
    name="litellm",
    title="LiteLLM proxy",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("litellm",)),
    sources=("docs.litellm.ai/docs/proxy/configs", "docs.litellm.ai/docs/proxy/timeout"),
)
