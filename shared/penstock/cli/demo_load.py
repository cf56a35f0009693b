"""Scenes of `penstock demo`: many clients, a greedy one, one that does not read, one that leaves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

from penstock.cli.demo_clients import Client, Crowd, asked_and_silent, at_once, gone
from penstock.cli.demo_stage import ASCII, Scene, Stage, must, running_gateway, until

_CLIENTS = 12
_LONG = 6
_PATIENCE_S = 6.0
_IDLE_WITHIN_S = 120.0
"""A server that computes for nobody comes to its end on a slow machine too."""
_STALL_S = 1.0
_WORDY: dict[str, Any] = {"stream": True, "logprobs": True, "top_logprobs": 300}
"""An answer that soon fills all that is between the server and a client."""


class _Watch(threading.Thread):
    """How many stood in the gateway's queue, at most, while the block ran."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._done = threading.Event()
        self.queued = 0

    def run(self) -> None:
        """See `threading.Thread`."""
        while not self._done.wait(0.05):
            self.queued = max(self.queued, self._stage.queued())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def many(stage: Stage) -> Scene:
    """More clients than slots: who waits, for how long, and does anybody know?"""
    direct = _crowd(stage.server.url)
    with _Watch(stage) as watch:
        through = _crowd(stage.gateway)
    settings = stage.http.get(f"{stage.gateway}/penstock/settings").json()["settings"]
    room = settings["concurrency"]["queue_length"]
    return Scene(
        "twelve clients at once on two slots",
        f"{direct.shown()}; {direct.announcements()}",
        f"{through.shown()}; {through.announcements()}. Up to {watch.queued} stood in a queue that takes {room}",
        better=through.answered == _CLIENTS
        and 0 < watch.queued <= room
        and through.told > direct.told,
    )


def _crowd(base: str) -> Crowd:
    return at_once(
        [
            Client(base, f"hello, said number {n}", max_tokens=800, ignore_eos=True, **ASCII)
            for n in range(_CLIENTS)
        ]
    )


def laggard(stage: Stage) -> Scene:
    """A short question behind the long prompts of somebody else."""
    waited: list[float | None] = []
    for base in (stage.server.url, stage.gateway):
        long = [
            Client(base, f"{n} of {base}: " + "what a long and tedious story " * 6, key="greedy", max_tokens=4, **ASCII)
            for n in range(_LONG)
        ]  # fmt: skip
        for client in long:
            client.start()
        for client in long:
            client.sent.wait(10.0)
        if base == stage.gateway:
            must(lambda: stage.queued() > 0, 10.0, "No long prompt had to wait.")
        short = Client(base, f"And now, {base}?", key="modest", max_tokens=4, **ASCII)
        short.run()
        waited.append(short.first_s)
        gone(long)
    direct, through = waited
    return Scene(
        "one client sends six long prompts, another then asks something short",
        f"the short one has its first word {_after(direct)}",
        f"{_after(through)}: clients take turns",
        through is not None and (direct is None or through < direct),
    )


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:.1f} s"


def stopped_reading(stage: Stage, folder: Path) -> Scene:
    """A client that asks for a stream and then reads nothing of it."""
    upstreams = [{"name": "llama", "url": stage.server.url, "local": True}]
    settings = {"upstreams": upstreams, "timeouts": {"stall_s": _STALL_S}}
    folder.mkdir()
    with running_gateway(folder, settings) as gateway:
        # The gateway first: directly, the slot computes on into whatever comes next.
        through = _busy(stage, gateway, **_WORDY)
    direct = _busy(stage, stage.server.url, **_WORDY)
    return Scene(
        "a client stops reading its stream",
        _computes(direct),
        f"the slot is free after {through:.1f} s (timeouts.stall_s: {_STALL_S:g})",
        through < direct,
    )


def hang_up(stage: Stage) -> Scene:
    """A client that leaves before its answer is complete."""
    through = _busy(stage, stage.gateway, leaves=True)
    direct = _busy(stage, stage.server.url, leaves=True)
    return Scene(
        "a client leaves in the middle of a plain request",
        _computes(direct),
        f"the slot is free after {through:.2f} s",
        through < direct,
    )


def _computes(seconds: float) -> str:
    if seconds < _PATIENCE_S:
        return f"the slot computes on for {seconds:.1f} s"
    return f"the slot was still busy after {_PATIENCE_S:g} s"


def _busy(stage: Stage, base: str, *, leaves: bool = False, **fields: Any) -> float:
    """How long a slot works on for a client that does not read, and that *leaves* once it works."""
    must(lambda: stage.busy() == 0, _IDLE_WITHIN_S, "The server did not become idle.")
    body = {
        "model": "demo", "max_tokens": 1500, "ignore_eos": True,
        "messages": [{"role": "user", "content": "tell me a long story"}], **fields,
    }  # fmt: skip
    with asked_and_silent(base, body):
        must(lambda: stage.busy() == 1, 10.0, "The server did not begin to answer.")
        if not leaves:
            return until(lambda: stage.busy() == 0, _PATIENCE_S)
    return until(lambda: stage.busy() == 0, _PATIENCE_S)
