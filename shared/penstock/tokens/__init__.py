"""
How many tokens is it? What every message of a conversation weighs for one model: exactly where its server
counts, by a frozen measure elsewhere, and how far such a measure can be off.
"""

from penstock.tokens.calibration import Calibration, step
from penstock.tokens.families import family_of
from penstock.tokens.kv_cache import KvShape, kv_shape
from penstock.tokens.measure import measure_text
from penstock.tokens.message import (
    Countable,
    countable,
    message_key,
    thinking_bytes,
    without_spent_thinking,
)
from penstock.tokens.mix import Lane, Mix
from penstock.tokens.overhead import Overhead
from penstock.tokens.scale import Scale, Weighed, tools_key

__all__ = [
    "Calibration",
    "Countable",
    "KvShape",
    "Lane",
    "Mix",
    "Overhead",
    "Scale",
    "Weighed",
    "countable",
    "family_of",
    "kv_shape",
    "measure_text",
    "message_key",
    "step",
    "thinking_bytes",
    "tools_key",
    "without_spent_thinking",
]
