"""
The limit of one upstream while the gateway runs: what it is based on, what requests teach it, and that the limiter
follows. The decision itself is `penstock.concurrency.Limit`.

A number that the user gave stands as it is, unless they ask for adaptation (`concurrency.adaptive: true`): who names
a number has measured it, or wants to know what they get. Then it is a ceiling, as the slots are that a server tells:
more than those would only wait inside the server, unseen and in its order instead of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from penstock import resources
from penstock.concurrency import ConcurrencyOptions, Lesson, Limit, Move, Sample
from penstock.domain.fault import Outcome
from penstock.errors import ErrorCode
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.steps.limiter import Limiter

log = logging.getLogger("penstock.gateway")

Source = Literal["setting", "slots", "memory", "adapted"]

_TOO_MUCH = (ErrorCode.UPSTREAM_OVERLOADED, ErrorCode.OUT_OF_MEMORY)
_WORTH_TELLING = 0.8
_TELL_AGAIN_AFTER_S = 600.0


class UpstreamLimit:
    """
    Args:
        limiter: is resized when the limit moves.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._limit = Limit(limiter.limit, ceiling=limiter.limit, trusted=True)
        self._source: Source = "memory"
        self._adapts = False
        self._told = self._lowest_told = limiter.limit
        self._told_s = float("-inf")

    @property
    def source(self) -> Source:
        """What the limit is based on."""
        limit = self._limit
        is_moved = limit.number < limit.ceiling if limit.trusted else limit.why != ""
        return "adapted" if self._adapts and is_moved else self._source

    @property
    def ceiling(self) -> int:
        """The most that it may become."""
        return self._limit.ceiling

    @property
    def is_below_ceiling(self) -> bool:
        """Whether it may grow."""
        return self._limit.number < self._limit.ceiling

    @property
    def why(self) -> str:
        """Why it moved last; empty when it never did."""
        return self._limit.why

    @property
    def moved_s(self) -> float | None:
        """When that was."""
        return self._limit.moved_s

    def set_base(
        self,
        options: ConcurrencyOptions,
        *,
        given: int | None,
        slots: int | None,
        left_bytes: Callable[[], int | None],
    ) -> None:
        """
        By what the number is found; what was learned stays as long as that is the same.

        Args:
            given: the user's number.
            slots: what the server told, None when it did not.
            left_bytes: looks up the memory that is left for the server.
        """
        self._adapts = options.adaptive is not False if given is None else bool(options.adaptive)
        was = self._source
        if given is not None:
            self._source = "setting"
            self._ceiling(given, trusted=True)
        elif slots is not None:
            self._source = "slots"
            self._ceiling(slots, trusted=True)
        else:
            self._source = "memory"
            if was == "memory" and not self._limit.trusted and self._adapts:
                self._ceiling(options.adaptive_ceiling, trusted=False)
                return
            start = resources.start_concurrency(
                available_bytes=left_bytes(), slots=None, setting=None
            )
            ceiling = max(start, options.adaptive_ceiling) if self._adapts else start
            self._limit = Limit(start, ceiling=ceiling, trusted=not self._adapts)
            self._follow()

    def slots_told(self, slots: int | None) -> None:
        """The server told how many requests it works on at a time; None when it does not say."""
        if slots is None or self._source == "setting":
            return
        self._source = "slots"
        self._ceiling(slots, trusted=True)

    def learn(self, exchange: Exchange, now_s: float, *, may_grow: bool) -> Move | None:
        """
        Take in a request that has ended.

        Args:
            may_grow: False while memory is short.

        Returns:
            a move that a person should be told of.
        """
        if not self._adapts:
            return None
        move = self._limit.take(_sample(exchange, now_s, self._limiter.in_use), may_grow=may_grow)
        if move is None:
            return None
        log.debug("limit", extra={"upstream": exchange.upstream, "limit": move.after})
        self._follow()
        return move if self._is_news(now_s) else None

    def _is_news(self, now_s: float) -> bool:
        """Whether the limit fell by more than a little: not each step, and not again and again."""
        number = self._limit.settled
        if number > self._told * _WORTH_TELLING:
            self._told = max(self._told, number)
            return False
        self._told = number
        if number >= self._lowest_told and now_s - self._told_s < _TELL_AGAIN_AFTER_S:
            return False
        self._lowest_told, self._told_s = number, now_s
        return True

    def _ceiling(self, ceiling: int, *, trusted: bool) -> None:
        self._limit.set_ceiling(ceiling, trusted=trusted)
        if not self._adapts and trusted:
            self._limit = Limit(ceiling, ceiling=ceiling, trusted=True)
        self._told = self._lowest_told = max(self._told, self._limit.number)
        self._follow()

    def _follow(self) -> None:
        if self._limiter.limit != self._limit.number:
            self._limiter.resize(self._limit.number)


def _sample(exchange: Exchange, now_s: float, in_use: int) -> Sample:
    profile = exchange.profile
    first_s, sent_s = exchange.first_token_s, exchange.sent_s
    if sent_s is None:
        return Sample("ignored", now_s, now_s, exchange.in_flight)
    prompt = exchange.prompt_tokens
    if prompt is None:
        prompt = exchange.prompt_tokens_planned or exchange.body_bytes // 4
    return Sample(
        _lesson(exchange),
        sent_s,
        now_s,
        exchange.in_flight,
        in_use + 1,  # its own permit was given back
        None if first_s is None else first_s - sent_s,
        max(0, prompt - (exchange.cached_tokens or 0)),
        exchange.completion_tokens or exchange.chunks,
        0.0 if first_s is None else now_s - first_s,
        profile is not None and profile.reading.loaded is False,
    )


_OF_ITSELF = frozenset({ErrorCode.UPSTREAM_ERROR, ErrorCode.BAD_ANSWER})
"""Failures that fewer requests at a time would not cure: the server is broken, not choking."""


def _lesson(exchange: Exchange) -> Lesson:
    """
    What a request teaches about how many are too many. A server that nobody could connect to was not working on
    too much; one that only worked when asked again was.
    """
    attempts = [a for a in exchange.attempts if a.upstream == exchange.upstream]
    fault = None
    for attempt in attempts:
        fault = attempt.fault
        if fault is not None and (fault.code in _TOO_MUCH or fault.shared_kv):
            return "too_much"
    if exchange.outcome is Outcome.DROPPED:
        of_load = fault is not None and fault.phase != "connect" and fault.code not in _OF_ITSELF
        return "dropped" if of_load else "ignored"
    if exchange.outcome is Outcome.SUCCESS and len(attempts) == 1:
        return "success"
    return "ignored"
