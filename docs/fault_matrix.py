"""
Writes `fault-matrix.md`: what a client gets when a server misbehaves, from the rules that the gateway is tested
against (`tests/matrix/owed.py`). Run `python docs/fault_matrix.py` after a change of the rules; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from matrix.owed import ATTEMPTS, FAULTS, MOMENTS, SCENES, Fault, Mode, Moment, Owed, owed

FILE = Path(__file__).with_name("fault-matrix.md")
_COLUMNS: dict[Moment, str] = {
    "connect": "connecting",
    "headers": "before the answer",
    "first_token": "before the first token",
    "midstream": "mid-answer",
    "after_end": "after the end",
    "keep_alive": "between requests",
}
_SCENES = {
    "heartbeat": "Once a heartbeat has committed the status, the same error comes as an event; a whole answer simply follows "
    "the heartbeats. All attempts are made as before.",
    "queued": "Whoever waits behind the request that fails goes next as soon as it has ended, and meets the server as it "
    "is then: well again, or failing, by its own attempts. Nobody is lost, nobody pays for another.",
    "draining": "Running requests get what the table says, retries included, until `timeouts.drain_s` is over. New ones are "
    "refused: 503 `draining`, `Retry-After`, `x-should-retry: true`.",
    "reload": "No difference: new settings touch no request that runs.",
    "again": "If the fault counts, the server is left alone: 503 `breaker_open` at once, with `Retry-After` and "
    "`x-should-retry: true`, and the server is not asked. If it does not count, the table holds for ever.",
    "redeclared": "No difference: the request goes on with the upstream as it was when it began; the next one meets "
    "the new declaration.",
}


def page() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# When a server misbehaves"
    yield ""
    yield "<!-- made by docs/fault_matrix.py -->"
    yield ""
    yield from (
        "What a client gets when a local model server, or the way to it, fails: every fault at every moment at which it can",
        "strike. The rules behind this page are what the tests hold the gateway to, in front of OpenAI chat and completions,",
        "Anthropic Messages, Responses, and Ollama's chat and generate, each streaming and plain, towards llama.cpp and",
        "Ollama; besides, every error text known of any server kind is one more fault. Clouds are another matter: their",
        "bytes pass unchanged, so their faults do too.",
        "",
        "How to read a cell:",
        "",
        "- *whole*: the client gets its whole answer and never hears of the fault.",
        "- 502 `broken_stream`, 3x, counted: the error that the client gets when the fault stays, after how many attempts,",
        "  and whether the circuit breaker counts it against the server. With more than 1x, a server that is well again at a",
        "  later attempt makes it *whole*.",
        "- *event*: part of the answer was there already, so the error is the last event of the stream, in the client's own",
        "  dialect, and the stream ends without its closing event: nobody takes half an answer for a whole one. Plain",
        "  answers have relayed nothing until they are complete, so they can be tried again where streams cannot.",
        "- An empty cell: the fault cannot strike there.",
        "",
        f"The attempts are those of the default policy (`retry.local.attempts`: {ATTEMPTS}). What follows from each code stands",
        "in [errors](errors.md). Errors of an upstream carry `x-should-retry: false`, since the attempts are spent; with",
        "`upstream_loading`, `upstream_overloaded` and `rate_limited`, `Retry-After` says when to come back. Refusals of our",
        "own (`queue_full`, which is 503 on Responses) carry `x-should-retry: true` and `Retry-After`.",
        "",
    )
    yield f"| the fault | {' | '.join(_COLUMNS.values())} |"
    yield "|---" * (len(_COLUMNS) + 1) + "|"
    for fault in FAULTS:
        cells = [_cell(fault, moment) if moment in fault.at else "" for moment in _COLUMNS]
        passes = " (1)" if fault.passes else ""
        yield f"| {fault.title}{passes} | {' | '.join(cells)} |"
    yield ""
    yield from (
        "(1) Where client and server speak the same dialect, a stream goes on as it came: nothing is parsed that no feature",
        "needs, and the client sees what the server said.",
        "",
    )
    yield "What the columns mean: " + "; ".join(
        f"*{name}*: {MOMENTS[moment]}" for moment, name in _COLUMNS.items()
    ) + "."  # fmt: skip
    yield ""
    yield "## What else goes on"
    yield ""
    yield "| when | then |"
    yield "|---|---|"
    for scene, text in _SCENES.items():
        yield f"| {SCENES[scene]} | {text} |"
    yield ""
    yield from (
        "## What is looked at in every cell",
        "",
        "- What the client got, read by the strict grammar of its dialect: its text is exactly what the server said, once.",
        "- What the server saw: no more requests than attempts, all the same.",
        "- One record, one log line, and one count in `/metrics` for each request, with this outcome and this code.",
        "- Afterwards nothing is in flight, queued, held or haunted; every connection is idle or closed, there are no more",
        "  tasks than before, and once the gateway has ended no more descriptors.",
    )


def _cell(fault: Fault, moment: Moment) -> str:
    found: dict[Mode, Owed] = {
        mode: owed(fault, moment, mode, "always") for mode in ("stream", "plain")
    }
    told = {mode: _told(each) for mode, each in found.items()}
    if told["stream"] == told["plain"]:
        return told["plain"]
    return f"streaming: {told['stream']}<br>plain: {told['plain']}"


def _told(due: Owed) -> str:
    if due.is_whole:
        return "whole"
    counted = ", counted" if due.outcome == "dropped" else ""
    event = "event " if due.as_event else ""
    low, high = due.attempts
    attempts = f"{high}x" if low == high else f"{low}-{high}x"
    codes = " or ".join(f"`{code}`" for code in due.codes)
    return f"{event}{due.status} {codes}, {attempts}{counted}"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
