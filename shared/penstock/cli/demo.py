"""
`penstock demo`: the same things done to a real llama.cpp directly and through the gateway, side by side.

Nothing is downloaded: the models are made on the spot (they babble; what is shown is how they are served).
Each scene measures what happens on both ways; nothing printed is written down beforehand.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from penstock.cli import demo_deaths, demo_load, demo_scenes
from penstock.cli.demo_scenes import TURNS
from penstock.cli.demo_stage import Scene, raised
from penstock.cli.output import fail, json_option, note, print_json, program, table, working


@click.command()
@json_option
def demo(as_json: bool) -> int:
    """See the difference on a real llama.cpp: directly and through the gateway, side by side."""
    from penstock.cli.serve import tiny_model

    scenes: list[Scene] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, ExitStack() as stack:
        with working("Making two tiny models"):
            quick, slow = str(tiny_model()), str(tiny_model("slow"))
        with working("Starting llama.cpp (4,096 tokens, 2 slots) and the gateway in front of it"):
            stage = stack.enter_context(raised(Path(folder) / "quick", quick))
        note(f"llama.cpp at {stage.server.url}, Penstock at {stage.gateway}")
        for title, scene in (
            ("Reading the window", demo_scenes.window),
            (f"Having a conversation of {TURNS} turns", demo_scenes.long_conversation),
            ("Sending a conversation that does not fit", demo_scenes.too_long),
            ("Sending it in four dialects", demo_scenes.dialects),
            ("Asking twelve at once", demo_load.many),
            ("Restarting the server under a request", demo_deaths.restart),
        ):
            with working(title):
                scenes.append(scene(stage))
        with working("Starting a slower model, to be caught in the act"):
            stage = stack.enter_context(raised(Path(folder) / "slow", slow))
        for title, scene in (
            ("Asking something short behind six long prompts", demo_load.laggard),
            ("Hanging up in the middle of a plain request", demo_load.hang_up),
        ):
            with working(title):
                scenes.append(scene(stage))
        with working("Reading nothing of a stream"):
            scenes.append(demo_load.stopped_reading(stage, Path(folder) / "silent"))
        with working("Killing a server in the middle of its answer"):
            scenes.append(demo_deaths.killed(Path(folder) / "killed"))
    if as_json:
        print_json({"scenes": [asdict(scene) for scene in scenes]})
    else:
        click.echo()
        table(
            ("what happens", "directly", "through Penstock"),
            [(scene.what, scene.direct, scene.through) for scene in scenes],
        )
        click.echo(
            f"\nDone in {time.monotonic() - started:.0f} s. Now in front of your own server: "
            + click.style(f"{program()} serve", bold=True)
        )
    worse = [scene.what for scene in scenes if not scene.better]
    if worse:
        fail(f"The gateway was no better here: {', '.join(worse)}.")
    return 0
