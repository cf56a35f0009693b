"""
Whether a server is as large as was asked for, and where it should be: the condition `FitsMemory`. Pure.

It stands in the status only while it is false, and takes nothing away from `Ready`: a smaller server serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from penstock_operator.seen import Seen
from penstock_operator.sizing.size import Sizing, mebibytes
from penstock_operator.status.measured import beside_the_gpu


@dataclass(frozen=True, slots=True)
class Size:
    """How large a server is made, what is known of its weights, and whether it has a GPU."""

    sizing: Sizing
    weights: dict[str, Any]
    on_gpu: bool


class Small(NamedTuple):
    """Why it is not as it should be: a word for programs, a sentence for people."""

    reason: str
    message: str


def too_small(size: Size, seen: Seen) -> Small | None:
    """None while all is well."""
    made = size.sizing
    if made.exhausted:
        return Small(
            "TooLittleMemory",
            f"The server was killed for memory, and cannot be made smaller. {_advice(made)}",
        )
    if made.step.steps:
        often = "once" if made.step.steps == 1 else f"{made.step.steps} times"
        return Small(
            "SteppedDown",
            f"The server was killed for memory, so it was made smaller, {often} by now{_sizes(made)}. {_advice(made)}",
        )
    spilled = beside_the_gpu(seen) if size.on_gpu else None
    if spilled is not None:
        return Small(
            "PartlyOnCPU",
            f"The GPU does not hold the model: {mebibytes(spilled)} of it are in the machine's own memory, and answers "
            "are slow. Take a GPU with more memory, smaller weights, or a shorter context.",
        )
    return None


def _sizes(made: Sizing) -> str:
    if made.fits_itself and made.facts is None:
        return ""
    chosen, wanted = made.chosen, made.wanted
    return (
        f": {chosen.context_length} tokens for each of {chosen.parallel} requests at a time, "
        f"in place of {wanted.context_length} for {wanted.parallel}"
    )


def _advice(made: Sizing) -> str:
    needed = made.wanted_bytes
    much = "" if needed is None else f" to {mebibytes(needed + needed // 10)} or more"
    return f"Raise spec.resources.limits.memory{much}, or ask for less in spec.tuning."
