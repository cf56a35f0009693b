"""
How many requests at once, who waits, and who goes next. `limit` is the number and `line` the queue, each as a pure
state machine; `turns`, `grouping` and `warmth` decide in the queue; the asynchronous limiter around it is
`penstock.gateway.steps.limiter`.
"""

from penstock.concurrency.ask import Ask, Priority, Ticket, estimated_work_s
from penstock.concurrency.left import Left
from penstock.concurrency.limit import Limit
from penstock.concurrency.line import Granted, Line, Queued, RefusedEntry
from penstock.concurrency.options import ConcurrencyOptions
from penstock.concurrency.sample import Lesson, Move, Sample

__all__ = [
    "Ask",
    "ConcurrencyOptions",
    "Granted",
    "Left",
    "Lesson",
    "Limit",
    "Line",
    "Move",
    "Priority",
    "Queued",
    "RefusedEntry",
    "Sample",
    "Ticket",
    "estimated_work_s",
]
