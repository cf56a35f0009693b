"""
What is done about a supervised model server that ends: start it again, when, or give it up? Pure.

The pause before a start doubles with each death that follows soon upon the one before (1, 2, 4 ... at most 30 s) and
is short again once the server was ready for a while: a server that died after a day is wanted back at once, one that
dies while it reads its settings will do so again. After so many such deaths in a row it is given up, for a person has
to mend something: what is served meanwhile is the reason. Time counts from readiness and not from the start, because
a server may load for minutes before it dies of the model that it loaded.

Sources: systemd.service(5) (`RestartSec`, `StartLimitBurst`), supervisord (`startsecs`, `startretries`), Kubernetes
(CrashLoopBackOff), Erlang/OTP supervisor (restart intensity).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from penstock.domain.options import Options, option

ServerState = Literal["starting", "running", "restarting", "given_up", "stopped"]
"""`starting` until it is ready for the first time, `restarting` from a death until it is ready again."""


class SupervisionOptions(Options):
    """Servers that the gateway runs: `serve --supervise -- COMMAND` and `serve --embedded`."""

    first_delay_s: float = option(
        1.0, effect="Pause before a server that died is started again.", unit="seconds", ge=0
    )
    longest_delay_s: float = option(30.0, effect="Longest such pause.", unit="seconds", ge=0)
    factor: float = option(2.0, effect="Each pause is the one before times this.", ge=1, le=10)
    steady_s: float = option(
        60.0,
        effect="A server that was ready for this long has its earlier deaths forgiven.",
        unit="seconds",
        gt=0,
    )
    give_up_after: int = option(
        5,
        effect="Deaths in a row, each soon after the one before, after which it is given up.",
        reason="It would die again: somebody has to look at its log.",
        ge=1,
        le=1000,
    )
    ready_within_s: float = option(
        1800.0,
        effect="A server that is not ready this long after its start is ended and started again.",
        unit="seconds",
        reason="A large model loads for minutes from a slow disk, and is fetched before that.",
        gt=0,
    )
    stop_s: float = option(
        15.0,
        effect="How long a server may take to end before it is killed.",
        unit="seconds",
        gt=0,
    )
    log_bytes: int = option(
        5 * 1024 * 1024,
        effect="Size at which the file with the server's output is set aside.",
        unit="bytes",
        ge=4096,
    )
    log_files: int = option(3, effect="Such files that are kept.", ge=0, le=100)


class Decision(NamedTuple):
    """
    What follows a death.

    Attributes:
        quick_deaths: in a row, with this one.
        after_s: the pause before the next start; None when it is given up.
    """

    quick_deaths: int
    after_s: float | None


def after_death(
    quick_deaths: int, ready_for_s: float | None, options: SupervisionOptions
) -> Decision:
    """
    Args:
        quick_deaths: in a row, before this one.
        ready_for_s: how long it was ready; None when it never was.
    """
    forgiven = ready_for_s is not None and ready_for_s >= options.steady_s
    quick_deaths = 1 if forgiven else quick_deaths + 1
    if quick_deaths >= options.give_up_after and not forgiven:
        return Decision(quick_deaths, None)
    grown = options.first_delay_s * options.factor ** min(quick_deaths - 1, 60)
    return Decision(quick_deaths, min(options.longest_delay_s, grown))


_SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
}  # fmt: skip
_CODES = {
    126: "it cannot be executed",
    127: "a command was not found",
    -1073741819: "an access violation",
    3221225477: "an access violation",
    3221225786: "it was interrupted",
}
_OUT_OF_MEMORY = (
    "out of memory", "outofmemory", "out_of_memory", "bad_alloc", "cannot allocate memory", "failed to allocate",
    "cudamalloc failed", "erroroutofdevicememory", "not enough memory", "memoryerror",
)  # fmt: skip
_MOST_TOLD = 600


def how_it_ended(code: int | None, said: str) -> str:
    """
    A death in words.

    Args:
        code: exit code, or the negative number of the signal; None when nobody saw it.
        said: the end of its output.
    """
    signal = None
    if code is None:
        told = "it is gone"
    elif code < 0 and -code in _SIGNALS:
        signal, told = -code, f"it was ended by {_SIGNALS[-code]}"
    elif 128 < code < 160 and code - 128 in _SIGNALS:  # as a shell or a container tells it
        signal, told = code - 128, f"it ended with code {code} ({_SIGNALS[code - 128]})"
    else:
        more = f" ({_CODES[code]})" if code in _CODES else ""
        told = f"it ended with code {code}{more}"
    lowered = said.lower()
    if any(words in lowered for words in _OUT_OF_MEMORY):
        return f"{told}: out of memory, by its own words"
    if signal == 9:
        return f"{told}: probably out of memory, unless somebody killed it"
    return told


def last_words(said: str, most_lines: int = 4) -> str:
    """The last lines of a server's output, short enough for an error message; "" when it said nothing."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    told = " | ".join(lines[-most_lines:])
    return told if len(told) <= _MOST_TOLD else "..." + told[-_MOST_TOLD:]


def given_up(deaths: int, why: str, words: str) -> str:
    """Why requests are refused once a server was given up; *words*: its last ones."""
    times = "once" if deaths == 1 else f"{deaths} times"
    return f"the supervised server died {times}: {why}." + (
        f" Its last words: {words}" if words else ""
    )
