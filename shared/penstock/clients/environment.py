"""
Anything that reads the usual variables: OpenAI's and Anthropic's SDKs, Ollama's client, LiteLLM's library, `llm`.

Sources: openai-python and anthropic-sdk-python (`*_BASE_URL`, `*_API_KEY`, `ANTHROPIC_AUTH_TOKEN`), ollama-python
(`OLLAMA_HOST`), docs.litellm.ai/docs/providers/openai (`OPENAI_API_BASE`).
"""

from __future__ import annotations

from penstock.clients.base import ClientSpec, Connection, Launch, Setup


def setup(connection: Connection) -> Setup:
    """What a shell gets."""
    environment = {
        "OPENAI_BASE_URL": connection.openai_url,
        "OPENAI_API_BASE": connection.openai_url,
        "OPENAI_API_KEY": connection.any_key,
        "OPENAI_MODEL": connection.model.id,
        "ANTHROPIC_BASE_URL": connection.url,
        "ANTHROPIC_AUTH_TOKEN": connection.any_key,
        "ANTHROPIC_MODEL": connection.model.id,
        "OLLAMA_HOST": connection.url,
    }
    return Setup(
        environment=environment,
        launch=Launch(None, (), environment, unset=("ANTHROPIC_API_KEY",)),
        notes=(
            "No variable that all of them read names the window; they learn it from /v1/models or not at all.",
        ),
    )


SPEC = ClientSpec(
    name="env",
    title="Environment variables",
    dialect="OpenAI, Anthropic, Ollama",
    setup=setup,
    also=("environment",),
    cannot_write='variables belong to a shell, not to a file of ours: eval "$(penstock connect env --print)", in '
    "your shell's profile if you like",
    sources=("the SDKs' own README pages",),
)
