"""
How many requests at once, and who waits. `limit` is the number and `line` the queue, each as a pure state machine;
the asynchronous limiter around the queue is `penstock.gateway.steps.limiter`.
"""

from penstock.concurrency.limit import Limit
from penstock.concurrency.line import (
    Granted,
    Line,
    Queued,
    RefusedEntry,
    Ticket,
)
from penstock.concurrency.options import ConcurrencyOptions
from penstock.concurrency.sample import Lesson, Move, Sample

__all__ = [
    "ConcurrencyOptions",
    "Granted",
    "Lesson",
    "Limit",
    "Line",
    "Move",
    "Queued",
    "RefusedEntry",
    "Sample",
    "Ticket",
]
