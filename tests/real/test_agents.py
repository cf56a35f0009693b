"""
Real coding agents in front of Penstock, headless, in an empty home and folder.

What the model says is played (`playing`) where a test needs a certain course of events, and spelled by a
real llama.cpp where it does not. Time cannot be injected into an agent: where one must lose patience, its
own settings make it short. `python3 benchmarks patience` has the run of more than a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import parts
from agents import AGENTS, Agent, Place, installed, lock_of, started
from gateways import RunningGateway, until
from penstock.adapters import tiny_model
from penstock.adapters.tiny_layers import Shape
from playing import Break, Restart, Silence, playing

pytestmark = pytest.mark.real

WITHIN_S = 120.0
TASK = "Write the word hello into the file made.txt."
SAID = "All is written now."

FIXTURES = Path(__file__).parents[1] / "fixtures" / "clients"
QUICK = Shape(64, 1, 1, 1, 64, 262_144)
"""Reads an agent's long prompt in seconds, with words from that prompt for tokens."""

REFUSED = {
    "opencode": "maximum context length is 256 tokens",
    "qwen-code": "maximum context length is 256 tokens",
    "codex": "Codex ran out of room in the model's context window",
    "claude-code": "tokens (limit 256)",
}
"""What each makes of a prompt that is too long."""

each_agent = pytest.mark.parametrize("agent", [pytest.param(a, id=a.name) for a in AGENTS])


def gateway_before(url: str, folder: Path, **settings: object) -> RunningGateway:
    """A gateway with one upstream."""
    return RunningGateway(
        folder / "gateway", {"upstreams": [{"name": "box", "url": url}], **settings}
    )


@each_agent
def test_it_is_what_was_pinned(agent: Agent) -> None:
    """The installed packages have the pinned versions, and their lock names hashes and no registry."""
    for package in agent.packages:
        found = json.loads((installed(agent) / package.name / "package.json").read_text("utf-8"))
        assert found["version"] == package.version
    lock = json.dumps(lock_of(agent))
    assert lock.count('"integrity": "sha512-') == len(agent.packages)
    assert "http" not in lock
    assert "resolved" not in lock


@each_agent
def test_one_command_connects_it(agent: Agent, tmp_path: Path) -> None:
    """After `penstock connect --write`, and nothing else, a newcomer's agent calls its tool and answers."""
    made = tmp_path / "run" / "work" / "made.txt"

    def connected(home: Path, _: Place) -> dict[str, str]:
        # As in a newcomer's shell; the gateway is found by its runtime file.
        environment = {**gateway.env, "HOME": str(home)}
        del environment["XDG_CONFIG_HOME"]
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "connect", agent.connect, "--write"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return {}

    with (
        playing([agent.writes(made, "hello")], SAID) as model,
        gateway_before(model.url, tmp_path) as gateway,
        started(
            replace(agent, configure=connected), Place(gateway.url), TASK, tmp_path / "run"
        ) as run,
    ):
        assert run.wait(WITHIN_S) == 0, run.told()
        assert SAID in run.out
        assert made.read_text("utf-8") == "hello"


@each_agent
def test_a_real_server_is_restarted_between_call_and_answer(agent: Agent, tmp_path: Path) -> None:
    """Real llama.cpp has the model call a tool, dies, and says the closing words when it is back."""
    made = tmp_path / "run" / "work" / "made.txt"
    call = agent.writes(made, "hello")
    spelled = json.dumps({"name": call.tool, "arguments": call.arguments})
    texts = {"calls": f"<tool_call>\n{spelled}\n</tool_call>", "closes": SAID}
    files = {name: tmp_path / f"{name}.gguf" for name in texts}
    recorded = FIXTURES / agent.name / "recorded-first-turn.json"
    for name, text in texts.items():
        tiny_model.write_model(
            files[name], shape=QUICK, name="m", says=text, reads=recorded.read_text("utf-8")
        )
    with parts.start_llamacpp(model=str(files["calls"]), ctx_size=131_072) as server:
        exact = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0}
        with (
            gateway_before(server.url, tmp_path, sampling=exact) as gateway,
            started(agent, Place(gateway.url), TASK, tmp_path / "run") as run,
        ):
            until(made.is_file, WITHIN_S, "the file that the call writes")
            server.kill()
            server.restart(model=str(files["closes"]))
            assert run.wait(WITHIN_S) == 0, run.told()
            assert SAID in run.out
            assert made.read_text("utf-8").strip() == "hello"


@each_agent
def test_a_prefill_longer_than_its_patience(agent: Agent, tmp_path: Path) -> None:
    """Heartbeats keep an agent waiting that would give up by itself; it asks once and finishes."""
    made = tmp_path / "run" / "work" / "made.txt"
    with (
        playing([agent.writes(made, "hello")], SAID, troubles=[Silence(9.0)]) as model,
        gateway_before(model.url, tmp_path, timeouts={"heartbeat_s": 1}) as gateway,
        started(agent, Place(gateway.url, patience_s=4.0), TASK, tmp_path / "run") as run,
    ):
        assert run.wait(WITHIN_S) == 0, run.told()
        assert SAID in run.out
        assert made.read_text("utf-8") == "hello"
        assert len(model.asked) == 2, "one request for the call, one with its result"


@each_agent
def test_a_restart_and_a_stream_that_breaks(agent: Agent, tmp_path: Path) -> None:
    """A server that dies with the request and comes back, then breaks off in the middle of a sentence."""
    made = tmp_path / "run" / "work" / "made.txt"
    troubles = [Restart(2.0), Break()]
    with (
        playing([agent.writes(made, "hello")], SAID, troubles=troubles) as model,
        gateway_before(model.url, tmp_path) as gateway,
        started(agent, Place(gateway.url), TASK, tmp_path / "run") as run,
    ):
        assert run.wait(WITHIN_S) == 0, run.told()
        assert SAID in run.out
        assert made.read_text("utf-8") == "hello"
        assert len(model.asked) >= 4


@each_agent
def test_a_conversation_that_outgrows_the_window(agent: Agent, tmp_path: Path) -> None:
    """An agent that believes in a far larger window works on for long: each request fits."""
    work = tmp_path / "run" / "work"
    text = "word " * 1500
    calls = [agent.writes(work / f"made{number}.txt", text + str(number)) for number in range(9)]
    with (
        playing(calls, SAID, window=16_384) as model,
        gateway_before(model.url, tmp_path) as gateway,
        started(agent, Place(gateway.url, window=400_000), TASK, tmp_path / "run") as run,
    ):
        assert run.wait(WITHIN_S) == 0, run.told()
        assert SAID in run.out
        assert len(list(work.glob("made*.txt"))) == len(calls)
        assert model.refused == 0
        assert model.asked[0] + len(calls) * 1500 > model.window, "it did outgrow the window"
        assert max(model.asked) <= model.window


@each_agent
def test_a_window_too_small_for_its_own_prompt(agent: Agent, tmp_path: Path) -> None:
    """What cannot be made to fit is refused in words that the agent shows; it ends with an error."""
    with (
        playing([], SAID, window=256) as model,
        gateway_before(model.url, tmp_path) as gateway,
        # opencode would summarise, ask again and be refused again, without end.
        started(agent, Place(gateway.url, compacts=False), TASK, tmp_path / "run") as run,
    ):
        assert run.wait(WITHIN_S) != 0, run.told()
        assert REFUSED[agent.name] in run.told()
        assert model.refused == 0, "no such request reached the server"
