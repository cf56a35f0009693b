"""
What to leave out when a conversation is too long. Watermark replay: where a cut lies is a pure function of
the conversation, so that every replica cuts at the same place and the server's prefix cache stays warm
between cuts (contracts 9).

`budget` says how much there is room for, `fit` makes a conversation fit, `foresee` says what the next cut
would leave out. `penstock.compress.prefix` recognises conversations, `penstock.compress.nonce` removes
what breaks their prefix.
"""

from penstock.compress.assemble import NOTE
from penstock.compress.budget import Budget, budget
from penstock.compress.fit import fit, foresee
from penstock.compress.options import ContextOptions, Marks
from penstock.compress.outcome import DoesNotFit, Fate, Fitted, Kind
from penstock.compress.summary import cut_key, summary_tokens

__all__ = [
    "NOTE",
    "Budget",
    "ContextOptions",
    "DoesNotFit",
    "Fate",
    "Fitted",
    "Kind",
    "Marks",
    "budget",
    "cut_key",
    "fit",
    "foresee",
    "summary_tokens",
]
