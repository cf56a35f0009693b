"""
How real agents bear a prefill of more than a minute. See README.md.

Each agent starts headless, with its own time-outs, before a Penstock with default settings. The server plays
the model's part and sends nothing for `--silence` seconds; then it calls a tool of the agent, and says a
closing text when the result has come. What is held down on the way is the agent's patience: whether it waits,
how often it asks, whether it comes to its end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from agents import AGENTS, Agent, Place, started
from gateways import RunningGateway
from playing import Silence, playing

SAID = "All is written now."


def measure(agent: Agent, silence_s: float) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory(prefix="penstock-agents-") as name:
        folder = Path(name)
        made = folder / "run" / "work" / "made.txt"
        calls = [agent.writes(made, "hello")]
        with (
            playing(calls, SAID, troubles=[Silence(silence_s)]) as model,
            RunningGateway(
                folder / "gateway", {"upstreams": [{"name": "box", "url": model.url}]}
            ) as gateway,
            started(agent, Place(gateway.url), "Write hello into made.txt.", folder / "run") as run,
        ):
            code = run.wait(silence_s * 10 + 300)
            came_through = code == 0 and made.is_file() and SAID in run.out
            beats = sum(
                int(line.split(" heartbeats=")[1].split()[0])
                for line in gateway.log().splitlines()
                if " heartbeats=" in line
            )
            verdict = "yes" if came_through else f"**no** (exit {code})"
            asked = len(model.asked)
            return (
                f"| {agent.name} {agent.version} | {agent.dialect} | {verdict} "
                f"| {run.took_s:.0f} s | {asked} | {beats} |"
            )


def main() -> None:
    """Measure all agents beside each other: they mostly wait."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--silence", type=float, default=75.0, help="seconds (default 75)")
    wanted = parser.parse_args()
    print("| agent | speaks | came through | took | requests (2 are needed) | heartbeats |")
    print("|---|---|---|---|---|---|")
    with ThreadPoolExecutor(len(AGENTS)) as pool:
        for row in pool.map(lambda agent: measure(agent, wanted.silence), AGENTS):
            print(row, flush=True)


if __name__ == "__main__":
    main()
