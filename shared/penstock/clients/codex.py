"""
Codex: `config.toml`, a provider of its own and the window at the top.

It speaks Responses only (`wire_api = "chat"` is refused since early 2026), assumes 272,000 tokens for a model
that it does not know, repeats 5xx but not 429, and ends a stream after 300 s without an event. Its own retries
are lowered, because the gateway has retried already: they would multiply. A key goes into the file as
`experimental_bearer_token` (readable by you only); `--run` gives it by a variable instead.

Sources: openai/codex, codex-rs/model-provider-info/src/lib.rs (fields, defaults, what is retried) and
codex-rs/core/config.schema.json.
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
    Setup,
    Traces,
)
from penstock.clients.edits import Setting

FOLDER = Folder(home=(".codex",), variable="CODEX_HOME")
KEY_VARIABLE = "PENSTOCK_API_KEY"


def _top(connection: Connection) -> list[Setting]:
    model = connection.model
    found = [
        Setting(("model",), model.id, "the model"),
        Setting(("model_provider",), "penstock", "the provider below"),
    ]
    if model.window is not None:
        found += [
            Setting(("model_context_window",), model.window,
                    "the window as it runs; 272,000 is assumed otherwise"),
            Setting(("model_auto_compact_token_limit",), model.window * 8 // 10,
                    "compacts before the window is full"),
        ]  # fmt: skip
    found.append(Setting(("web_search",), "disabled", "a tool of OpenAI's servers only"))
    return found


def _provider(connection: Connection) -> dict[str, Any]:
    return {
        "name": "Penstock",
        "base_url": connection.openai_url,
        "wire_api": "responses",
        "request_max_retries": 1,
        "stream_max_retries": 2,
        "stream_idle_timeout_ms": 1_800_000,
    }


def setup(connection: Connection) -> Setup:
    """What Codex gets."""
    top, provider = _top(connection), _provider(connection)
    in_file = dict(provider)
    if connection.key:
        in_file["experimental_bearer_token"] = connection.key
    given = dict(provider)
    if connection.key:
        given["env_key"] = KEY_VARIABLE
    options = [(setting.path[0], setting.value) for setting in top]
    options += [(f"model_providers.penstock.{name}", value) for name, value in given.items()]
    return Setup(
        environment={KEY_VARIABLE: connection.key} if connection.key else {},
        files=(
            ClientFile(
                FOLDER,
                ("config.toml",),
                "toml",
                (
                    *top,
                    Setting(("model_providers", "penstock"), in_file, "address, dialect, patience"),
                ),
            ),
        ),
        launch=Launch(
            "codex",
            # A JSON string, number or boolean is one of TOML, too.
            tuple(
                part for name, value in options for part in ("-c", f"{name}={json.dumps(value)}")
            ),
            {KEY_VARIABLE: connection.key} if connection.key else {},
        ),
    )


SPEC = ClientSpec(
    name="codex",
    title="Codex",
    dialect="OpenAI Responses",
    setup=setup,
    traces=Traces(("codex",), (FOLDER,), ("openai.chatgpt-",)),
    own_tokens=10_000,
    own_tokens_from="a first request of 39,498 characters (0.169.0); 13,000 reported of its extension (openai/codex issue "
    "19212)",
    cannot_prevent=(
        (
            "ends a stream that brings no event for stream_idle_timeout_ms and sends the whole request again "
            "(after half an hour once it is connected, after 5 minutes by default)"
        ),
    ),
    sources=(
        "github.com/openai/codex: codex-rs/model-provider-info/src/lib.rs",
        "developers.openai.com/codex/config-reference",
    ),
)  # fmt: skip
