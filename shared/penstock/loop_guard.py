"""
A generation that repeats itself without end is recognised by its own text (design 4.7).
"""

from __future__ import annotations

from penstock.domain.options import Options, option


class LoopGuardOptions(Options):
    """Generations of local models that repeat themselves."""

    enabled: bool = option(
        True,
        effect='A generation that repeats itself is ended with `finish_reason: "length"`.',
        reason="A model in a loop keeps a slot busy until its output limit.",
    )
