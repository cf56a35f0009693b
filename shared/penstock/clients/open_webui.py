"""
Open WebUI: variables, of the process or container it runs in. It has no settings file; what was set once by a
variable stands in its database from then on and is changed under Admin Settings, Connections.

OpenAI's dialect, with its own way to Ollama switched off: otherwise the same models are listed twice, and the
direct ones go past the gateway. Its time-out of 300 s is what old reports of "network error" are about.

Sources: docs.openwebui.com/getting-started/env-configuration (`OPENAI_API_BASE_URL`, `OPENAI_API_KEY`,
`ENABLE_OLLAMA_API`, `DEFAULT_MODELS`, `AIOHTTP_CLIENT_TIMEOUT`, persistent variables).
"""

from __future__ import annotations

from penstock.clients.base import ClientSpec, Connection, Launch, Setup, Traces


def setup(connection: Connection) -> Setup:
    """What Open WebUI gets."""
    environment = {
        "ENABLE_OPENAI_API": "true",
        "OPENAI_API_BASE_URL": connection.openai_url,
        "OPENAI_API_KEY": connection.any_key,
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": connection.model.id,
        "AIOHTTP_CLIENT_TIMEOUT": "3600",
    }
    return Setup(
        environment=environment,
        launch=Launch("open-webui", ("serve",), environment),
        notes=(
            (
                "These take effect at its very first start. Later: Admin Settings, Connections, OpenAI API: "
                f"{connection.openai_url}, key {connection.any_key}; and switch Ollama API off there."
            ),
            (
                "In a container the gateway is at host.docker.internal, and listen.host and listen.allowed_hosts have "
                "to let it in."
            ),
            "Leave num_ctx alone in its model settings: the gateway knows the window.",
        ),
    )


SPEC = ClientSpec(
    name="open-webui",
    title="Open WebUI",
    dialect="OpenAI chat",
    setup=setup,
    also=("openwebui",),
    traces=Traces(("open-webui",)),
    cannot_write="Open WebUI has no settings file: variables at its first start, its own pages afterwards",
    sources=("docs.openwebui.com/getting-started/env-configuration",),
)
