"""Settings of what is done with tool calls."""

from __future__ import annotations

from penstock.domain.options import Options, option


class ToolCallOptions(Options):
    """Tool calls of local models. Each repair is counted and announced."""

    repair: bool = option(
        True,
        effect='Arguments are repaired against the tool\'s own schema: `"True"` becomes true only where it wants a boolean.',
    )
    recover: bool = option(
        True,
        effect="A call that the model wrote as text becomes a call, where its format is known and its arguments validate.",
    )
