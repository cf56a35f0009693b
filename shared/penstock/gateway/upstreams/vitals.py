"""
What is remembered of one upstream to judge its health: how its last requests ended, its last checks, what was
done about it. Bounded, and cheap where requests touch it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from statistics import median
from typing import NamedTuple

from penstock.health import Done, Finding

_MOST_OUTCOMES = 256
_MOST_MODELS = 64
_MOST_DONE = 64


class Ended(NamedTuple):
    """A request that has ended: when, whether it speaks against the server, its time to first token."""

    at_s: float
    failed: bool
    ttft_s: float | None


class Vitals:
    """
    Attributes:
        checked_s: time of the last check, None before the first.
        response_s: of its answer to a cheap question; None without an answer.
        refused_checks, silent_checks: in a row.
        findings: of the last check.
        error_share: of the last check, None with too few requests.
        done: acts, oldest first.
        ran_out: models whose requests ran out of memory -> when.
    """

    __slots__ = (
        "_ended",
        "_most_windows",
        "_used_s",
        "checked_s",
        "done",
        "error_share",
        "findings",
        "ran_out",
        "refused_checks",
        "response_s",
        "silent_checks",
    )

    def __init__(self) -> None:
        self._ended: deque[Ended] = deque(maxlen=_MOST_OUTCOMES)
        self._used_s: OrderedDict[str, float] = OrderedDict()
        self._most_windows: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.checked_s: float | None = None
        self.response_s: float | None = None
        self.refused_checks = 0
        self.silent_checks = 0
        self.findings: tuple[Finding, ...] = ()
        self.error_share: float | None = None
        self.done: deque[Done] = deque(maxlen=_MOST_DONE)
        self.ran_out: OrderedDict[str, float] = OrderedDict()

    def ended(
        self, model: str, at_s: float, *, failed: bool | None, ttft_s: float | None = None
    ) -> None:
        """
        A client's request has ended.

        Args:
            failed: whether it speaks against the server; None when it teaches nothing.
        """
        if failed is not None:
            self._ended.append(Ended(at_s, failed, ttft_s))
        self._used_s[model] = at_s
        self._used_s.move_to_end(model)
        if len(self._used_s) > _MOST_MODELS:
            self._used_s.popitem(last=False)

    def requests(self, since_s: float) -> tuple[int, int]:
        """Requests that ended since then, and how many of them failed."""
        lately = [one for one in self._ended if one.at_s >= since_s]
        return len(lately), sum(one.failed for one in lately)

    def ttft_s(self, since_s: float) -> float | None:
        """The median time to the first token of requests since then."""
        told = [o.ttft_s for o in self._ended if o.at_s >= since_s and o.ttft_s is not None]
        return median(told) if told else None

    def used_s(self, model: str) -> float | None:
        """When the last request to *model* ended."""
        return self._used_s.get(model)

    def checked(self, now_s: float, *, response_s: float | None, refused: bool) -> None:
        """A check was made; *response_s* is None without an answer."""
        self.checked_s, self.response_s = now_s, response_s
        silent = response_s is None and not refused
        self.refused_checks = self.refused_checks + 1 if refused else 0
        self.silent_checks = self.silent_checks + 1 if silent else 0

    def note_out_of_memory(self, model: str, now_s: float) -> None:
        """A request to *model* ran out of memory."""
        self.ran_out[model] = now_s
        self.ran_out.move_to_end(model)
        if len(self.ran_out) > _MOST_MODELS:
            self.ran_out.popitem(last=False)

    def shrink(self, model: str, window: int, until_s: float) -> None:
        """No larger window than this is asked for until then."""
        self._most_windows[model] = (window, until_s)
        self._most_windows.move_to_end(model)
        if len(self._most_windows) > _MOST_MODELS:
            self._most_windows.popitem(last=False)

    def most_window(self, model: str, now_s: float) -> int | None:
        """The largest window to ask for now; None for any."""
        if not self._most_windows:
            return None
        window, until_s = self._most_windows.get(model, (0, 0.0))
        return window if now_s < until_s else None
