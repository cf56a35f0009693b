"""
How many requests at once, who waits, and who goes next. `line` is the queue as a pure state machine; `turns`,
`grouping` and `warmth` decide in it; the asynchronous limiter around it is `penstock.gateway.steps.limiter`.
"""

from penstock.concurrency.ask import Ask, Priority, Ticket, estimated_work_s
from penstock.concurrency.left import Left
from penstock.concurrency.line import Granted, Line, Queued, RefusedEntry
from penstock.concurrency.options import ConcurrencyOptions

__all__ = [
    "Ask", "ConcurrencyOptions", "Granted", "Left", "Line", "Priority", "Queued", "RefusedEntry", "Ticket",
    "estimated_work_s",
]  # fmt: skip
