"""What a chat template adds to the texts of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Overhead:
    """
    Tokens that a template and pictures add. The defaults are those of ChatML-like templates.

    Attributes:
        base: once per request (start of text, the opening of the answer, a system text of its own).
        per_message: for a message of a role that is not in `roles`.
        roles: by role, where it was measured.
        per_call: the markup of one tool call, beside its name and arguments.
        per_image: an image of usual detail. Local vision models take 256 (Gemma 3) to some 2,900
            (LLaVA-NeXT); 1,024 is between, and what a calibration learns from comes on top.
        per_small_image: an image that is asked for with `detail: low`.
        per_other: audio or a file: 1,000, a guess.
        toolset: once for a request that offers tools, beside the definitions.
        keeps_thinking: the template renders the thinking of earlier turns; many leave it out.
        measured: whether the server was asked, else these are defaults.
    """

    base: int = 8
    per_message: int = 5
    roles: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    per_call: int = 16
    per_image: int = 1024
    per_small_image: int = 256
    per_other: int = 1000
    toolset: int = 120
    keeps_thinking: bool = True
    measured: bool = False

    def of_role(self, role: object) -> int:
        """What the template adds to a message of *role*."""
        return self.roles.get(role, self.per_message) if isinstance(role, str) else self.per_message
