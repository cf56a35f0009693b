"""
Claude Code: variables, in the `env` of its `settings.json`.

There rather than in the shell: `env` wins over what is exported, and the switch that takes the changing
attribution block out of the system prompt was reported to take effect only there. `--run` hands the same over
by `--settings FILE`, a file of ours.

The window: for a model that Claude Code does not know by name it assumes 200,000 tokens unless
`CLAUDE_CODE_MAX_CONTEXT_TOKENS` says otherwise; `CLAUDE_CODE_AUTO_COMPACT_WINDOW` is what it counts
compaction by, and takes 100,000 as its least value (2.1.332 says so), so it is set for larger windows only. From that
it takes the output limit (at most 20,000) and 13,000 tokens more that it keeps free.
"""

from __future__ import annotations

import json

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

FOLDER = Folder(home=(".claude",), variable="CLAUDE_CONFIG_DIR")
_LEAST_COMPACT_WINDOW = 100_000
_TIERS = ("OPUS", "SONNET", "HAIKU")
_API_KEY = "An ANTHROPIC_API_KEY in your environment makes Claude Code ask which of the two keys it shall use; unset it."

_ONLY_CLAUDE = (
    "Its list of models shows only ids that begin with claude or anthropic; an alias in routing.aliases "
    "puts yours there."
)

_KNOWN_NAME = (
    "For a name that it knows it keeps to the window that it knows: choose the model by its own id rather than by an "
    "alias that begins with claude."
)


def variables(connection: Connection) -> dict[str, tuple[str, str]]:
    """Name -> (value, why)."""
    model = connection.model
    found = {
        "ANTHROPIC_BASE_URL": (connection.url, "the gateway; it adds /v1/messages by itself"),
        "ANTHROPIC_AUTH_TOKEN": (connection.any_key, "sent as Authorization: Bearer"),
        "ANTHROPIC_MODEL": (model.id, "the main model"),
        **{f"ANTHROPIC_DEFAULT_{tier}_MODEL": (model.id, (f"what {tier.lower()} means: no request may ask for a "
                                                           "model that is not there")) for tier in _TIERS},
        "ANTHROPIC_SMALL_FAST_MODEL": (model.id, "titles and summaries, in older versions"),
        "CLAUDE_CODE_SUBAGENT_MODEL": (model.id, "subagents"),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": (str(model.output_tokens), "it asks for 32,000 otherwise"),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": ("0", ("takes out what changes at the head of each request, so that the "
                                                "server's prefix cache holds")),
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": ("1", "no fields that only Anthropic's own servers know"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": ("1", "no side requests to elsewhere"),
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": ("1", "no second, unstreamed run of a prompt whose stream broke"),
        "API_TIMEOUT_MS": ("3600000", "an hour a request; a local prefill takes minutes"),
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": ("1800000", ("half an hour of silence; it ends a stream after 5 minutes "
                                                     "otherwise")),
    }  # fmt: skip
    if model.window is not None:
        found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = (
            str(model.window),
            "the window as it runs; 200,000 is assumed otherwise",
        )
        if model.window >= _LEAST_COMPACT_WINDOW:
            found["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = (
                str(model.window),
                "what compaction is counted by",
            )
    return found


def setup(connection: Connection) -> Setup:
    """What Claude Code gets."""
    told = variables(connection)
    plain = {name: value for name, (value, _) in told.items()}
    return Setup(
        environment=plain,
        files=(
            ClientFile(
                FOLDER,
                ("settings.json",),
                "json",
                tuple(Setting(("env", name), value, why) for name, (value, why) in told.items()),
            ),
        ),
        launch=Launch(
            "claude",
            ("--settings", "{settings.json}"),
            plain,
            unset=("ANTHROPIC_API_KEY",),
            files={"settings.json": json.dumps({"env": plain}, indent=2) + "\n"},
        ),
        notes=(
            _API_KEY,
            _KNOWN_NAME
            if connection.model.id.startswith(("claude", "anthropic"))
            else _ONLY_CLAUDE,
        ),
    )


SPEC = ClientSpec(
    name="claude",
    title="Claude Code",
    dialect="Anthropic Messages",
    setup=setup,
    also=("claude-code",),
    traces=Traces(("claude",), (FOLDER,), ("anthropic.claude-code-",)),
    own_tokens=24_000,
    own_tokens_from="24,071 tokens in a first request to llama.cpp (janhq/jan issue 8108)",
    keeps_free=13_000,
    cannot_prevent=(
        (
            "ends a stream that is silent for CLAUDE_STREAM_IDLE_TIMEOUT_MS, 5 minutes at least; whether it takes "
            "Penstock's pings for life is not established"
        ),
    ),
    sources=(
        "code.claude.com/docs/en/env-vars", "code.claude.com/docs/en/settings",
        "code.claude.com/docs/en/llm-gateway", "code.claude.com/docs/en/model-config",
    ),
)  # fmt: skip
