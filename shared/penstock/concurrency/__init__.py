"""
How many requests at once, and who waits. `line` is the queue as a pure state machine; the asynchronous
limiter around it is `penstock.gateway.steps.limiter`.
"""

from penstock.concurrency.line import (
    Granted,
    Line,
    Queued,
    RefusedEntry,
    Ticket,
)
from penstock.concurrency.options import ConcurrencyOptions

__all__ = ["ConcurrencyOptions", "Granted", "Line", "Queued", "RefusedEntry", "Ticket"]
