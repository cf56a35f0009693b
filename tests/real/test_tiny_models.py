"""What real llama.cpp can keep of a prompt, by the kind of model: why a prefix stays warm or does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parts import LlamaCpp, fetch
from penstock.adapters.tiny_model import (
    RECURRENT,
    SLIDING,
    THINKING_TEMPLATE,
    TINY,
    Shape,
    write_model,
)

pytestmark = pytest.mark.real

SYSTEM = {"role": "system", "content": "the agents write reports about the weather " * 40}


def chat(server: LlamaCpp, messages: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"messages": messages, "max_tokens": 4, "temperature": 0}
    answer: dict[str, Any] = fetch(f"{server.url}/v1/chat/completions", body)
    return answer


@pytest.mark.parametrize(
    ("shape", "goes_back"),
    [
        pytest.param(TINY, True, id="full attention"),
        pytest.param(SLIDING, False, id="sliding window"),
        pytest.param(RECURRENT, False, id="recurrent"),
    ],
)
def test_who_can_go_on_and_who_can_go_back(
    llamacpp: Any, tmp_path: Path, shape: Shape, goes_back: bool
) -> None:
    """Every kind goes on where it is; only full attention goes back to a place that it did not save."""
    model = write_model(tmp_path / "m.gguf", shape=shape, says="all is done.")
    server = llamacpp(model=model, ctx_size=4096)
    question = {"role": "user", "content": "what of the north? " * 20}
    said = chat(server, [SYSTEM, question])
    prompt = said["usage"]["prompt_tokens"]
    messages = [
        SYSTEM,
        question,
        said["choices"][0]["message"],
        {"role": "user", "content": "go on"},
    ]
    on = chat(server, messages)["timings"]
    assert on["cache_n"] >= 0.9 * prompt
    half = {**SYSTEM, "content": SYSTEM["content"][: len(SYSTEM["content"]) // 2]}
    back = chat(server, [half, question])["timings"]
    assert (back["cache_n"] > 0.3 * prompt) is goes_back


def test_template_strips_thinking_of_earlier_turns(llamacpp: Any, tmp_path: Path) -> None:
    """What was thought in this turn is shown, what was thought before the last question is not."""
    model = write_model(tmp_path / "m.gguf", says="all is done.", template=THINKING_TEMPLATE)
    server = llamacpp(model=model, ctx_size=4096)

    def prompt(messages: list[dict[str, Any]]) -> str:
        return str(fetch(f"{server.url}/apply-template", {"messages": messages})["prompt"])

    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turn = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "deep thought",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ]
    assert "deep thought" in prompt(turn)
    answer = {"role": "assistant", "content": "well", "reasoning_content": "second thought"}
    later = prompt([*turn, answer, {"role": "user", "content": "again"}])
    assert "thought" not in later
    assert "well" in later
