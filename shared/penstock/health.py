"""
Is an upstream well, and what is done about it if not? Readings in, findings and acts out; nothing is touched.

`penstock.gateway.upstreams.health` takes the readings and does the acts. Which acts a kind of server offers is
data of its file (`unload`, `load`, `smaller_window` in `penstock.servers.base`).

    finding          when                                              act, where the server offers it
    unreachable      nobody listens, at two checks in a row            restart
    hung             it takes connections and answers none of them,    restart
                     while no request is at work there
    loading          it says that it loads                             none: it will be ready
    slow             its answer to a cheap question took seconds       none
    errors           over a tenth of the requests speak against it     none: breaker and limit act on these
    memory           the machine is short of memory, or a request      unload an idle model; when heavy and none
                     waits for memory                                  is idle: a smaller window
    out_of_memory    it ran out of memory within ten minutes           unload an idle model, a smaller window
    model_failed     a model's own process has ended                   load it again

Acts are bounded, for a remedy that does not help must not become a storm: the same act on the same model waits
two minutes after the first time, four after the second, and so on, and there are at most six of one name in an
hour at one upstream. One model is unloaded at a check; the next look at the memory says whether that was enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from penstock.domain.options import Options, option
from penstock.domain.pressure import Pressure

FindingName = Literal[
    "unreachable", "hung", "loading", "slow", "errors", "memory", "out_of_memory", "model_failed"
]
ActKind = Literal["unload", "shrink", "load", "restart"]

SMALLEST_WINDOW = 4096
"""Tokens. No window is made smaller than this: agents do not work in less."""
_REFUSED_MEANS_DEAD_AFTER = 2
_FEWEST_REQUESTS = 5
_RESTED_S = 60.0
_USED_FROM = 0.75
"""Where pressure is left (`penstock.resources`)."""
_HOUR_S = 3600.0


class HealthOptions(Options):
    """How local upstreams are looked after. A cloud is never asked."""

    every_s: float = option(
        30.0, effect="Between two checks of a local upstream.", unit="seconds", ge=1
    )
    remediate: bool = option(
        True,
        effect="Do something about what is found: unload idle models, ask for smaller windows, load a failed "
        "model again, restart a server that is ours.",
        reason="Each act is logged, counted, shown in the status, and bounded.",
    )
    errors_above: float = option(
        0.1, effect="Share of failed requests from which it is a finding.", unit="share", gt=0, le=1
    )
    errors_window_s: float = option(
        300.0, effect="How far back failed requests count.", unit="seconds", gt=0
    )
    slow_above_s: float = option(
        2.0,
        effect="Time of an answer to a cheap question from which it is a finding.",
        unit="seconds",
        gt=0,
    )
    hung_after: int = option(
        3, effect="Checks in a row without an answer after which a server counts as hung.", ge=1
    )
    act_again_s: float = option(
        120.0,
        effect="Pause before the same act is done again; it doubles each time.",
        unit="seconds",
        gt=0,
    )
    most_acts_per_hour: int = option(
        6, effect="Most acts of one kind in an hour at one upstream.", ge=0, le=1000
    )


class Offers(NamedTuple):
    """
    What can be done at an upstream.

    Attributes:
        unload: an idle model can be taken out of memory, and running requests are left alone.
        load: a model that failed can be loaded again.
        smaller_window: a request can have its model loaded with a smaller window.
        restart: the server is ours to restart.
    """

    unload: bool = False
    load: bool = False
    smaller_window: bool = False
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """
    A model as it was seen at a check.

    Attributes:
        model: its id there.
        status: the server's word: `loaded`, `loading`, `failed`, `unloaded`; empty where the server is the
            model, so that nothing can be done to it.
        window: tokens that it runs with, or would be loaded with; None when unknown.
        window_is_fixed: the user set it.
        requests: of ours that are on their way to it or at work there.
        rested_s: since our last request to it ended; None when there was none.
        memory_bytes: of the machine's own memory that it holds; None when the server does not tell.
        ran_out: its last request ran out of memory.
    """

    model: str
    status: str = ""
    window: int | None = None
    window_is_fixed: bool = False
    requests: int = 0
    rested_s: float | None = None
    memory_bytes: int | None = None
    ran_out: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One check of one upstream.

    Attributes:
        answered: it answered a cheap question.
        refused_checks: checks in a row at which nobody listened.
        silent_checks: checks in a row at which it took the connection and said nothing.
        ready: it does not say that it loads.
        away: it is paused, drained or being restarted: nothing is expected of it.
        response_s: of the cheap question; None without an answer.
        requests, errors: that ended within the window; errors are those that speak against the server.
        pressure: of the memory that it lives in.
        used_share: of that memory; None where we may not speak for it.
        memory_wanted: a request waits for memory there.
        ran_out_of_memory: it did within the last ten minutes.
        at_work: requests, and ghosts of requests, that it works on.
        models: what it serves.
    """

    answered: bool
    refused_checks: int = 0
    silent_checks: int = 0
    ready: bool = True
    away: bool = False
    response_s: float | None = None
    requests: int = 0
    errors: int = 0
    pressure: Pressure = Pressure.CALM
    used_share: float | None = None
    memory_wanted: bool = False
    ran_out_of_memory: bool = False
    at_work: int = 0
    models: tuple[Seen, ...] = ()

    @property
    def is_full(self) -> bool:
        """The machine's memory is short by the share that is used, and not only because a server ran out of it."""
        is_used = self.used_share is not None and self.used_share >= _USED_FROM
        return is_used and self.pressure is not Pressure.CALM

    @property
    def error_share(self) -> float | None:
        """0 to 1; None while there are too few requests to tell."""
        return self.errors / self.requests if self.requests >= _FEWEST_REQUESTS else None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is not as it should be; `detail` is one sentence."""

    name: FindingName
    detail: str


@dataclass(frozen=True, slots=True)
class Act:
    """
    Something that could be done.

    Attributes:
        model: empty for the whole server.
        window: for `shrink`: the most tokens from now on.
        why: one sentence.
    """

    kind: ActKind
    why: str
    model: str = ""
    window: int | None = None


class Done(NamedTuple):
    """An act that was done, or tried, at `at_s`."""

    kind: ActKind
    model: str
    at_s: float


def find(reading: Reading, options: HealthOptions) -> tuple[Finding, ...]:
    """What is not as it should be."""
    if reading.away:
        return ()
    found: list[Finding] = []

    def add(name: FindingName, detail: str) -> None:
        found.append(Finding(name, detail))

    if reading.refused_checks:
        add("unreachable", f"nobody listens there, at {_checks(reading.refused_checks)}")
    elif not reading.answered:
        hung = reading.silent_checks >= options.hung_after and not reading.at_work
        told = f"it takes connections and answers nothing, at {_checks(reading.silent_checks)}"
        add("hung" if hung else "slow", told)
    elif not reading.ready:
        add("loading", "it says that it loads its model")
    elif reading.response_s is not None and reading.response_s > options.slow_above_s:
        add("slow", f"a cheap question took {reading.response_s:.1f} s")
    share = reading.error_share
    if share is not None and share > options.errors_above:
        add("errors", f"{reading.errors} of the last {reading.requests} requests failed")
    if reading.ran_out_of_memory:
        add("out_of_memory", "it ran out of memory within the last ten minutes")
    if reading.memory_wanted:
        add("memory", "a request waits for memory")
    elif reading.is_full:
        add("memory", f"{reading.used_share:.0%} of the memory is used")
    for seen in reading.models:
        if seen.status == "failed":
            add("model_failed", f"the process of {seen.model} has ended")
    return tuple(found)


def propose(reading: Reading, offers: Offers, options: HealthOptions) -> tuple[Act, ...]:
    """
    What could be done about it, the mildest first.

    Args:
        offers: what can be done there at all.
    """
    if reading.away or not options.remediate:
        return ()
    if not reading.answered:
        return _restart(reading, options) if offers.restart else ()
    acts: list[Act] = []
    short = reading.memory_wanted or reading.pressure is not Pressure.CALM
    idle = None
    if offers.unload and (short or reading.ran_out_of_memory):
        idle = _idle(reading)
        if idle is not None:
            acts.append(Act("unload", f"{_why(reading)}, and it is idle", idle.model))
    if offers.smaller_window:
        acts += _shrink(reading, others_first=idle is not None)
    if offers.load:
        acts += [
            Act("load", "its process has ended", seen.model)
            for seen in reading.models
            if seen.status == "failed"
        ]
    return tuple(acts)


def within_bounds(
    acts: Iterable[Act], done: Sequence[Done], now_s: float, options: HealthOptions
) -> tuple[Act, ...]:
    """
    Those of *acts* that may be done now.

    Args:
        done: what was done at this upstream, oldest first.
    """
    allowed: list[Act] = []
    counts: dict[ActKind, int] = {}
    for act in acts:
        lately = [d for d in done if d.kind == act.kind and now_s - d.at_s < _HOUR_S]
        count = counts.setdefault(act.kind, len(lately))
        if count >= options.most_acts_per_hour:
            continue
        same = [d for d in lately if d.model == act.model]
        if same and now_s - same[-1].at_s < options.act_again_s * 2 ** (len(same) - 1):
            continue
        counts[act.kind] += 1
        allowed.append(act)
    return tuple(allowed)


def _restart(reading: Reading, options: HealthOptions) -> tuple[Act, ...]:
    if reading.refused_checks >= _REFUSED_MEANS_DEAD_AFTER:
        return (Act("restart", f"nobody listens there, at {_checks(reading.refused_checks)}"),)
    if reading.silent_checks >= options.hung_after and not reading.at_work:
        return (Act("restart", f"it answers nothing, at {_checks(reading.silent_checks)}"),)
    return ()


def _idle(reading: Reading) -> Seen | None:
    """
    The model to unload: the one that has rested longest. The one that was used last stays, unless memory is
    very short and it has rested for a minute: it is the likeliest to be asked for next.
    """
    loaded = [seen for seen in reading.models if seen.status == "loaded"]
    by_rest = sorted(loaded, key=lambda seen: -_rested(seen))
    hard = reading.pressure is Pressure.HEAVY or reading.memory_wanted
    for place, seen in enumerate(by_rest):
        if seen.requests or (seen.memory_bytes == 0 and not reading.ran_out_of_memory):
            continue  # what lies in a GPU's memory frees none of the machine's
        is_last_used = place == len(by_rest) - 1
        if is_last_used and not (hard and _rested(seen) >= _RESTED_S):
            continue
        return seen
    return None


def _rested(seen: Seen) -> float:
    if seen.requests:
        return 0.0
    return seen.rested_s if seen.rested_s is not None else float("inf")


def _shrink(reading: Reading, *, others_first: bool) -> list[Act]:
    acts = []
    for seen in reading.models:
        if seen.window is None or seen.window_is_fixed or seen.window <= SMALLEST_WINDOW:
            continue
        heavy = reading.is_full and reading.pressure is Pressure.HEAVY and not others_first
        if seen.ran_out or (heavy and seen.status == "loaded" and not reading.ran_out_of_memory):
            smaller = max(SMALLEST_WINDOW, _class_below(seen.window))
            why = "it ran out of memory" if seen.ran_out else _why(reading)
            acts.append(Act("shrink", why, seen.model, smaller))
    return acts


def _class_below(window: int) -> int:
    """The largest power of two below *window*: windows come in few sizes, so that little is loaded anew."""
    return 1 << ((window - 1).bit_length() - 1)


def _why(reading: Reading) -> str:
    if reading.memory_wanted:
        return "a request waits for memory"
    if reading.ran_out_of_memory:
        return "the server ran out of memory"
    if reading.is_full:
        return f"{reading.used_share:.0%} of the memory is used"
    return "a server on this machine ran out of memory"


def _checks(count: int) -> str:
    return "one check" if count == 1 else f"{count} checks in a row"
