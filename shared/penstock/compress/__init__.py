"""
What to leave out when a conversation is too long. Watermark replay: where a cut lies is a pure function of
the conversation, so that every replica cuts at the same place and the server's prefix cache stays warm
between cuts (contracts 9).

`budget` says how much there is room for, `fit` makes a conversation fit, `foresee` says what the next cut
would leave out. `penstock.compress.prefix` recognises conversations, `penstock.compress.nonce` removes
what breaks their prefix.
"""

from penstock.compress.assemble import NOTE
from penstock.compress.budget import Budget, budget, reserve_tokens
from penstock.compress.fit import fit, foresee
from penstock.compress.nonce import without_nonces
from penstock.compress.options import ContextOptions, Marks
from penstock.compress.outcome import DoesNotFit, Fate, Fitted, Kind
from penstock.compress.prefix import Conversations, PrefixReport, head_key
from penstock.compress.summary import cut_key, summary_tokens
from penstock.compress.summary_request import summary_request

__all__ = [
    "NOTE",
    "Budget",
    "ContextOptions",
    "Conversations",
    "DoesNotFit",
    "Fate",
    "Fitted",
    "Kind",
    "Marks",
    "PrefixReport",
    "budget",
    "cut_key",
    "fit",
    "foresee",
    "head_key",
    "reserve_tokens",
    "summary_request",
    "summary_tokens",
    "without_nonces",
]
