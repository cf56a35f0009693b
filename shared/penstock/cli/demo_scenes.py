"""Scenes of `penstock demo`: what clients are told, and conversations that outgrow the window."""

from __future__ import annotations

import time
from typing import Any

from penstock.cli.demo_stage import ASCII, SLOTS, WINDOW, Scene, Stage

TURNS = 60


def window(stage: Stage) -> Scene:
    """What a client that reads `/v1/models` takes for its budget."""
    direct = stage.http.get(f"{stage.server.url}/v1/models").json()["data"][0]
    through = stage.http.get(f"{stage.gateway}/v1/models").json()["data"][0]
    told = next(
        (
            str(direct[k])
            for k in ("context_window", "context_length", "max_model_len")
            if k in direct
        ),
        None,
    )
    trained = direct.get("meta", {}).get("n_ctx_train")
    return Scene(
        "what clients can read of the window (really: 2,048 a slot)",
        told or f"in no field that clients read; trained for {trained}",
        f"{through['context_window']} in every field that clients read",
        through["context_window"] == WINDOW // SLOTS,
    )


def long_conversation(stage: Stage) -> Scene:
    """A conversation that outgrows the window, as a client sends it: whole, with every turn."""
    told = []
    answered = []
    for base in (stage.server.url, stage.gateway):
        messages: list[dict[str, str]] = [
            {"role": "system", "content": "You answer shortly, in the words of the theatre."}
        ]
        count = tokens = 0
        refused = ""
        started = time.monotonic()
        for turn in range(1, TURNS + 1):
            messages.append(
                {"role": "user", "content": f"On the other hand, what of {turn} others?"}
            )
            answer = stage.chat(base, messages=messages, max_tokens=4, temperature=0, **ASCII)
            if answer.status_code == 200:
                count += 1
                tokens += answer.json()["timings"]["prompt_n"]
            else:
                error = answer.json()["error"]
                refused = f"; then {answer.status_code} {error.get('type')} to each"
            # Not what the model babbles: both ways are to have the same conversation.
            messages.append(
                {"role": "assistant", "content": f"There are {turn} on the other hand."}
            )
        took_s = time.monotonic() - started
        answered.append(count)
        told.append(
            f"{count} answered{refused} ({tokens:,} prompt tokens worked on, {took_s:.1f} s)"
        )
    direct, through = told
    return Scene(
        f"a conversation of {TURNS} turns",
        direct,
        through,
        better=answered[1] == TURNS and answered[0] < TURNS,
    )


def too_long(stage: Stage) -> Scene:
    """The error that an agent gets which compacts its conversation by itself."""
    text = "hello the world " * 400
    direct = stage.chat(stage.server.url, text, max_tokens=4)
    through = stage.http.post(
        f"{stage.gateway}/v1/chat/completions",
        json={"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 4},
        headers={"penstock-strategy": "client"},
    )
    errors = [answer.json()["error"] for answer in (direct, through)]
    return Scene(
        "one that is too long, of an agent that compacts by itself",
        f"{direct.status_code} {errors[0].get('type')}: {errors[0]['message']}",
        f"{through.status_code} {errors[1]['code']}: {errors[1]['message']}",
        errors[1]["code"] == "context_length_exceeded",
    )


def dialects(stage: Stage) -> Scene:
    """A conversation that does not fit, as clients of four kinds send it."""
    turns = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": "to be or not " * 20}
        for place in range(41)
    ]
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": turns, "max_tokens": 8},
        "/v1/messages": {"messages": turns, "max_tokens": 8},
        "/v1/responses": {"input": turns, "max_output_tokens": 8},
        "/api/chat": {"messages": turns, "options": {"num_predict": 8}},
    }
    told = []
    answered = []
    for base in (stage.server.url, stage.gateway):
        statuses = [
            stage.http.post(
                f"{base}{path}", json={"model": "demo", "stream": False, **body}
            ).status_code
            for path, body in asked.items()
        ]
        answered.append(statuses.count(200))
        refused = ", ".join(str(status) for status in sorted({*statuses} - {200}))
        told.append(f"{answered[-1]} of 4 answered" + (f"; {refused}" if refused else ""))
    return Scene(
        "such a one by chat, Messages, Responses and Ollama's API",
        told[0],
        told[1],
        answered[1] == len(asked),
    )
