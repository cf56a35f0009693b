"""
Cline: nothing that could be written. Its extension keeps settings in VS Code's own storage and its key in the
system's credential store; both are open only to the extension itself, while VS Code runs. So the steps are
printed, with every value to type in; its command line program has one command that sets it up.

The window has to be typed in, too: for an OpenAI-compatible server Cline knows none.

Sources: docs.cline.bot/provider-config/openai-compatible (fields), docs.cline.bot/cline-cli (`cline auth`).
"""

from __future__ import annotations

from penstock.clients.base import ClientSpec, Connection, Folder, Setup, Traces
from penstock.clients.shell import quoted


def setup(connection: Connection) -> Setup:
    """What is typed into Cline."""
    model = connection.model
    window = (
        (
            f"Open Model Configuration: Context Window Size {model.window}, Max Output Tokens {model.output_tokens}.",
        )
        if model.window is not None
        else (f"Open Model Configuration: Max Output Tokens {model.output_tokens}.",)
    )
    command = " ".join(
        quoted(part)
        for part in ("cline", "auth", "--provider", "openai", "--apikey", connection.any_key,
                     "--baseurl", connection.openai_url, "--modelid", model.id)
    )  # fmt: skip
    return Setup(
        steps=(
            "In VS Code open Cline and its settings (the gear at the top).",
            "API Provider: OpenAI Compatible.",
            f"Base URL: {connection.openai_url}",
            f"API Key: {connection.any_key}",
            f"Model ID: {model.id}",
            *window,
            "Press Done.",
            f"Of Cline's command line program, instead: {command}",
        ),
        notes=(
            "Choose OpenAI Compatible rather than Ollama: there Cline asks for a window of its own with each request.",
        ),
    )


SPEC = ClientSpec(
    name="cline",
    title="Cline",
    dialect="OpenAI chat",
    setup=setup,
    traces=Traces(("cline",), (Folder(home=(".cline",)),), ("saoudrizwan.claude-dev-",)),
    own_tokens=12_000,
    own_tokens_from="10,136 tokens in a first request (cline/cline issue 3664), 16,000 with files (issue 2192)",
    cannot_write="Cline keeps its settings in VS Code's own storage, where no other program can write them",
    sources=(
        "docs.cline.bot/provider-config/openai-compatible", "docs.cline.bot/cline-cli/installation",
    ),
)  # fmt: skip
