"""Where cuts lie and what stands there, in conversations that can be read."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from conversations import IMAGE, by_bytes, weights
from penstock.compress import (
    NOTE,
    Budget,
    ContextOptions,
    DoesNotFit,
    Fitted,
    Kind,
    Marks,
    budget,
    cut_key,
    fit,
    foresee,
    summary_tokens,
)
from penstock.compress.content import IMAGE_GONE
from penstock.domain.pressure import Pressure
from penstock.domain.strategy import Strategy

OPTIONS = ContextOptions()
# A message of `m` weighs ten tokens: 40 for the system, cuts above 200, down to 100.
SIZE = Budget(window=260, high=200, low=100, most=240)


def m(role: str, content: Any, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


def ten(message: Mapping[str, Any]) -> int:
    """Ten tokens a message, or what it says."""
    return int(message.get("tokens", 10))


def call(number: int, **more: Any) -> list[dict[str, Any]]:
    """A round: a call and its result."""
    calls = [{"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    return [
        m("assistant", None, tool_calls=calls, n=f"call {number}"),
        m("tool", f"result {number}", tool_call_id=f"c{number}", **more),
    ]


def fitted(
    messages: Sequence[Mapping[str, Any]],
    strategy: Strategy = Strategy.WINDOW,
    size: Budget = SIZE,
    weigh: Any = ten,
    summary: Any = None,
) -> Fitted:
    """The plan."""
    return fit(
        messages,
        weights(messages, weigh),
        budget=size,
        weigh=weigh,
        strategy=strategy,
        options=OPTIONS,
        summary=summary,
    )


def told(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Texts, and names of calls."""
    return [str(message.get("content") or message.get("n")) for message in messages]


CHAT = [
    m("system", "rules"),
    *(message for i in range(10) for message in (m("user", f"u{i}"), m("assistant", f"a{i}"))),
]


def test_what_fits_is_untouched() -> None:
    """The identical object, nothing to announce."""
    messages = CHAT[:20]
    plan = fitted(messages)
    assert plan.messages is messages
    assert (plan.tokens, plan.original_tokens, plan.decided_at) == (200, 200, -1)
    assert (plan.changes, plan.cut_key, plan.dropped) == ((), None, ())
    assert {fate.kind for fate in plan.fates([10] * 20)} == {Kind.KEPT}


def test_a_cut_before_a_turn() -> None:
    """The oldest turns go until the low mark; the first task gets the note and its new neighbour."""
    plan = fitted(CHAT)
    assert told(plan.messages) == [
        "rules",
        f"u0\n\n{NOTE}\n\nu7",
        *("a7", "u8", "a8", "u9", "a9"),
    ]
    assert plan.decided_at == 20
    assert told(plan.dropped) == ["a0", *(f"{who}{i}" for i in range(1, 7) for who in "ua")]
    assert plan.tokens == 90
    kinds = [fate.kind for fate in plan.fates([10] * len(CHAT))]
    assert kinds == [Kind.KEPT] * 2 + [Kind.DROPPED] * 13 + [Kind.MERGED] + [Kind.KEPT] * 5
    assert [change.action for change in plan.changes] == ["dropped"]
    assert plan.changes[0].detail.startswith("13 older messages (130 tokens) left out")


def test_nothing_moves_until_the_next_cut() -> None:
    """What is appended stands behind what was sent."""
    plan = fitted(CHAT)
    later = [*CHAT, m("user", "u10"), m("assistant", "a10"), m("user", "u11")]
    assert list(fitted(later).messages) == [*plan.messages, *later[len(CHAT) :]]
    assert fitted(later).cut_key == plan.cut_key


def test_a_cut_in_the_middle_of_a_turn() -> None:
    """Its user message stays, also when the next turn has begun."""
    messages = [m("user", "task"), m("assistant", "yes"), m("user", "do it")]
    for number in range(9):
        messages += call(number)
    expected = [f"task\n\n{NOTE}\n\ndo it"]
    for number in (6, 7, 8):
        expected += [f"call {number}", f"result {number}"]
    plan = fitted(messages)
    assert told(plan.messages) == expected
    later = [*messages, m("assistant", "done"), m("user", "thanks")]
    assert told(fitted(later).messages) == [*expected, "done", "thanks"]


def test_system_messages_stay_where_they_stand() -> None:
    """Also late ones, between what goes."""
    messages = [*CHAT[:5], m("system", "late"), *CHAT[5:]]
    plan = fitted(messages)
    assert told(plan.messages)[:3] == ["rules", f"u0\n\n{NOTE}\n\nu7", "late"]


def test_a_late_result_keeps_its_call() -> None:
    """What lies between them belongs to them."""
    asked, result = call(1)
    between = [m("user", "meanwhile"), m("assistant", "wait"), *CHAT[5:]]
    sent = told(fitted([*CHAT[:5], asked, *between, result]).messages)
    assert sent == ["rules", f"u0\n\n{NOTE}", "call 1", *told(between), "result 1"]


def test_leading_assistant_messages_go_first() -> None:
    """The note stands where they stood."""
    messages = [m("assistant", f"hello {i}") for i in range(18)] + [
        m("user", "task"),
        m("assistant", "yes"),
        m("user", "go"),
    ]
    assert told(fitted(messages).messages) == [NOTE, "hello 12", "hello 13", "hello 14", "hello 15", "hello 16", "hello 17", "task", "yes", "go"]  # fmt: skip


def test_without_any_user_message_the_note_is_one() -> None:
    """Templates want to begin with the user."""
    messages = [m("system", "rules")] + [message for i in range(12) for message in call(i)]
    sent = fitted(messages).messages
    assert sent[1] == m("user", NOTE)
    assert told(sent)[-2:] == ["call 11", "result 11"]


def test_reset_keeps_only_what_is_never_dropped() -> None:
    """First and last user message, last round, the note."""
    plan = fitted(CHAT, Strategy.RESET)
    assert told(plan.messages) == ["rules", f"u0\n\n{NOTE}\n\nu9", "a9"]


@pytest.mark.parametrize("tokens", [259, 260], ids=["fits", "does not"])
def test_off_cuts_nothing(tokens: int) -> None:
    """What leaves no room for a single token is refused."""
    messages = [m("user", "x", tokens=tokens)]
    if tokens < 260:
        assert fitted(messages, Strategy.OFF).messages is messages
        return
    with pytest.raises(DoesNotFit) as refused:
        fitted(messages, Strategy.OFF)
    assert (refused.value.tokens, refused.value.most, refused.value.window) == (260, 259, 260)
    assert refused.value.what == "the largest message left is messages[0] (user) with 260 tokens"


def test_a_summary_stands_where_the_note_would() -> None:
    """Marked as no instructions; it moves no cut; while it is not ready the note stands there."""
    size = Budget(window=320, high=200, low=100, most=240)
    asked: list[str] = []

    def ready(key: str) -> str | None:
        asked.append(key)
        return "They counted."

    waiting = fitted(CHAT, Strategy.SUMMARY, size, summary=lambda key: None)
    done = fitted(CHAT, Strategy.SUMMARY, size, summary=ready)
    assert asked == [waiting.cut_key] == [done.cut_key]
    assert told(waiting.dropped) == told(done.dropped)
    assert NOTE in waiting.messages[1]["content"]
    content = done.messages[1]["content"]
    assert "They counted.\n[End of the summary.]" in content
    assert "no instructions" in content
    assert NOTE not in content
    assert waiting.tokens == done.tokens == 10 * (len(done.messages) + 2)  # the first one is three


@pytest.mark.parametrize("kind", ["chat", "turns of many rounds", "one long turn"])
def test_a_summary_is_prepared_before_the_cut(kind: str) -> None:
    """What is foreseen near the mark is found when the cut comes, and stays until the next one."""
    size = budget(2048, pressure=Pressure.CALM, options=OPTIONS)
    messages = [m("system", "rules"), m("user", "task")]
    prepared: dict[str, str] = {}
    used: list[str | None] = []
    before: Sequence[Mapping[str, Any]] = ()
    for number in range(250):
        if kind == "chat":
            messages += [m("assistant", "yes " * 30), m("user", f"{number} " * 30)]
        else:
            if kind == "turns of many rounds" and number % 11 == 10:
                messages += [m("assistant", "done"), m("user", f"next {number}")]
            messages += call(number, more="x" * 100)
        plan = fitted(messages, Strategy.SUMMARY, size, by_bytes, prepared.get)
        if plan.cut_key is not None:
            used.append(plan.summary_key)
            if len(used) > 1 and used[-2] == used[-1]:
                assert list(plan.messages[: len(before)]) == list(before)
            before = plan.messages
        if plan.tokens > 0.9 * size.high:
            left_out = foresee(messages, weights(messages, by_bytes), budget=size, weigh=by_bytes)
            prepared[cut_key(left_out)] = "They talked."
    assert None not in used
    assert len(set(used)) > 5


def test_a_summary_is_never_longer_than_its_room() -> None:
    """It loses its middle, not its marks; an end mark within it ends nothing."""
    size = budget(2048, pressure=Pressure.CALM, options=OPTIONS)
    messages = [m("user", "task")]
    while sum(weights(messages, by_bytes)) <= size.high:
        messages += [m("assistant", "yes " * 30), m("user", "go on " * 30)]
    text = "They [End of the summary.] talked. " * 200
    waiting = fitted(messages, Strategy.SUMMARY, size, by_bytes, lambda key: None)
    plan = fitted(messages, Strategy.SUMMARY, size, by_bytes, lambda key: text)
    assert waiting.tokens < plan.tokens <= waiting.tokens + summary_tokens(2048)
    content = plan.messages[0]["content"]
    assert content.count("[End of the summary.]") == 1
    assert "holds no instructions.]\nThey" in content


def test_a_fitted_conversation_that_grows_has_one_note() -> None:
    """Also when the client took over what was sent."""
    messages = list(CHAT)
    for number in range(30):
        messages = [*fitted(messages).messages, m("user", f"v{number}"), m("assistant", "ok")]
    assert "\n".join(told(messages)).count(NOTE) == 1


def test_old_results_are_shortened_before_turns_go() -> None:
    """At a cut only, and by their content; the newest round stays whole."""
    options = ContextOptions()
    size = budget(4096, pressure=Pressure.CALM, options=options)
    rows = json.dumps([{"row": i, "text": "x" * 20} for i in range(60)])
    messages: list[dict[str, Any]] = [m("user", "task")]
    while sum(weights(messages, by_bytes)) <= size.high:
        number = len(messages)
        messages += [*call(number)[:1], m("tool", rows, tool_call_id=f"c{number}")]
    plan = fitted(messages, size=size, weigh=by_bytes)
    assert not plan.dropped
    results = [message["content"] for message in plan.messages if message["role"] == "tool"]
    assert results[-1] == rows
    assert all(json.loads(result)[0]["row"] == 0 and len(result) < 512 for result in results[:-1])
    assert [change.action for change in plan.changes] == ["reduced"]


def test_old_images_go_before_turns() -> None:
    """But not the newest, and not that of the first task."""
    picture = [{"type": "text", "text": "look"}, IMAGE]
    messages = [m("user", picture, tokens=40)]
    for number in range(3):
        messages += [m("assistant", f"a{number}"), m("user", picture, tokens=40)]

    def weigh(message: Mapping[str, Any]) -> int:
        content = message["content"]
        return 40 if isinstance(content, list) and IMAGE in content else 10

    plan = fitted(messages, size=Budget(window=260, high=150, low=149, most=240), weigh=weigh)
    assert not plan.dropped
    seen = [message["content"][1] for message in plan.messages if message["role"] == "user"]
    gone = {"type": "text", "text": IMAGE_GONE}
    assert seen == [IMAGE, gone, gone, IMAGE]
    assert plan.tokens == 40 + 10 + 10 + 40 + 30


def weigh_images(message: Mapping[str, Any]) -> int:
    """Ten tokens a message, thirty an image, a tenth of its signs."""
    content = message["content"]
    if isinstance(content, list):
        return 10 + 30 * (IMAGE in content)
    return 10 + len(content or "") // 10


@pytest.mark.parametrize("high", [185, 135], ids=["at a cut", "when texts must be shortened too"])
def test_the_images_that_are_asked_about_stay(high: int) -> None:
    """That of the last question and those of the last round."""
    seen = {"content": [IMAGE]}
    messages = [
        m("system", [IMAGE]),
        m("user", "task " * 60),
        m("assistant", "yes"),
        m("user", [IMAGE]),
    ]
    messages += [*call(1)[:1], {**call(1)[1], **seen}, *call(2)[:1], {**call(2)[1], **seen}]
    size = Budget(window=260, high=high, low=high - 1, most=high + 40)
    plan = fitted(messages, size=size, weigh=weigh_images)
    left = [message["role"] for message in plan.messages if IMAGE in (message["content"] or ())]
    assert left == ["system", "user", "tool"]
    assert plan.decided_at == len(messages) - 1


def test_room_for_a_summary_is_given_up_before_a_request_is_refused() -> None:
    """A few words less to send are worth a cut then."""
    messages = [m("user", "task"), m("assistant", "yes", tokens=60), m("user", "on")]
    messages += [m("assistant", "ok"), m("user", "go", tokens=150)]
    size = Budget(window=1600, high=190, low=100, most=200)
    plan = fitted(messages, Strategy.SUMMARY, size, summary=lambda key: "Yes.")
    assert (plan.tokens, plan.cuts) == (180, 1)  # a summary of ten, as the note
    assert told(plan.messages)[1:] == ["ok", "go"]
    assert told(plan.dropped) == ["yes", "on"]


@pytest.mark.parametrize(
    ("options", "role"),
    [
        pytest.param(ContextOptions(shorten_last=False), "tool", id="the last round's results, always"),
        pytest.param(ContextOptions(), "user", id="the last question, where that is allowed"),
        pytest.param(ContextOptions(shorten_last=False), "user", id="else it is refused"),
    ],
)  # fmt: skip
def test_what_alone_is_too_large(options: ContextOptions, role: str) -> None:
    """It is shortened to what fits, or refused with the numbers."""
    size = budget(1024, pressure=Pressure.CALM, options=options)
    huge = "begin " + "x" * 20_000 + " end"
    last = (
        [m("user", huge)] if role == "user" else [*call(1)[:1], m("tool", huge, tool_call_id="c1")]
    )
    messages = [m("system", "rules"), m("user", "task"), *last]
    given = {"budget": size, "weigh": by_bytes, "strategy": Strategy.WINDOW, "options": options}
    if role == "user" and not options.shorten_last:
        with pytest.raises(DoesNotFit, match=r"largest message left is messages\[2\] \(user\)"):
            fit(messages, weights(messages, by_bytes), **given)  # type: ignore[arg-type]
        return
    plan = fit(messages, weights(messages, by_bytes), **given)  # type: ignore[arg-type]
    content = plan.messages[-1]["content"]
    assert content.startswith("begin x")
    assert content.endswith("x end")
    assert size.most * 0.8 < plan.tokens <= size.most


def test_tools_that_leave_no_room_are_named() -> None:
    """They are never dropped."""
    size = Budget(window=260, high=200, low=100, most=240, fixed=239)
    with pytest.raises(DoesNotFit, match="tools and template have 239 tokens"):
        fitted([m("user", "x")], size=size)


def test_cuts_are_few() -> None:
    """About as many as the tokens between the marks go into the conversation."""
    chance = random.Random(1)
    size = budget(2048, pressure=Pressure.CALM, options=OPTIONS)
    messages = [m("system", "rules")]
    for number in range(300):
        messages += [m("user", f"{number} " + "word " * chance.randint(10, 90))]
        messages += [m("assistant", "well " * chance.randint(10, 90))]
    total = sum(weights(messages, by_bytes))
    assert fitted(messages, size=size, weigh=by_bytes).cuts <= total / (size.high - size.low) + 1


@pytest.mark.parametrize(
    ("window", "pressure", "budget_class", "expected"),
    [
        pytest.param(2048, Pressure.CALM, 1.0, Budget(2048, 1638, 716, 1792), id="small and calm"),
        pytest.param(131_072, Pressure.CALM, 1.0, Budget(131_072, 104_857, 45_875, 126_976), id="the reserve has a limit"),
        pytest.param(8192, Pressure.PRESSURE, 1.0, Budget(8192, 4096, 2048, 7168), id="pressure"),
        pytest.param(8192, Pressure.HEAVY, 1.0, Budget(8192, 2457, 1228, 7168), id="heavy pressure"),
        pytest.param(8192, Pressure.CALM, 2.0, Budget(4096, 3276, 1433, 3584), id="a measure that may be half the truth"),
    ],
)  # fmt: skip
def test_marks(window: int, pressure: Pressure, budget_class: float, expected: Budget) -> None:
    """Shares of the window, and the reserve for the answer."""
    assert budget(window, pressure=pressure, options=OPTIONS, budget_class=budget_class) == expected


def test_marks_never_exceed_what_may_be_sent() -> None:
    """Whatever the settings say, there is room for a prompt and an answer."""
    options = ContextOptions(reserve_tokens=100_000, calm=Marks(high=1.0, low=0.9))
    assert budget(1000, pressure=Pressure.CALM, options=options) == Budget(1000, 500, 500, 500)


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"role": ["user"], "content": "x"}, id="a role that is a list"),
        pytest.param({"content": "x"}, id="no role"),
        pytest.param({"role": "assistant", "tool_calls": {"id": 1}}, id="calls that are no list"),
        pytest.param({"role": "assistant", "tool_calls": [1, {"id": []}]}, id="calls that are no objects"),
        pytest.param({"role": "tool", "tool_call_id": ["c"], "content": {"a": 1}}, id="a result for a list"),
        pytest.param({"role": "function", "name": "f", "content": 7}, id="a number for content"),
        pytest.param({"role": "user", "content": ["x", 1, {"type": []}, {"text": 5}]}, id="parts of all sorts"),
    ],
)  # fmt: skip
def test_odd_messages_break_nothing(odd: dict[str, Any]) -> None:
    """What a server would say to them is the server's to say."""
    for at in (0, 5, len(CHAT)):
        messages = [*CHAT[:at], odd, *CHAT[at:]]
        sent = fitted(messages).messages
        assert fitted(sent).messages is sent
        assert len(sent) < len(messages)
        with pytest.raises(DoesNotFit):
            fitted([{**message, "tokens": 100} for message in messages])
