"""The laws of fitting (contracts 9), over generated conversations."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from conversations import ANY, by_bytes, by_script, proper, requests, strict_template, weights
from penstock.compress import (
    Budget,
    ContextOptions,
    DoesNotFit,
    Fitted,
    Kind,
    budget,
    fit,
)
from penstock.domain.pressure import Pressure
from penstock.domain.strategy import Strategy

OPTIONS = ContextOptions()
NEVER = ContextOptions(shorten_last=False)
SUMMARY_OF = "They greeted each other. "

MEASURES = st.sampled_from([by_bytes, by_script])
BUDGETS = st.builds(
    lambda window, pressure, fixed: budget(window, pressure=pressure, options=OPTIONS, fixed=fixed),
    st.sampled_from([256, 512, 1024, 2048]),
    st.sampled_from(list(Pressure)),
    st.sampled_from([0, 60]),
)
STRATEGIES = st.sampled_from([Strategy.WINDOW, Strategy.RESET, Strategy.SUMMARY])
SETTINGS = st.sampled_from([OPTIONS, NEVER])


def made_to_fit(
    messages: Sequence[Mapping[str, Any]],
    size: Budget,
    weigh: Any = by_bytes,
    strategy: Strategy = Strategy.WINDOW,
    options: ContextOptions = OPTIONS,
) -> Fitted:
    """Fitted, with a summary for every second key."""
    return fit(
        messages,
        weights(messages, weigh),
        budget=size,
        weigh=weigh,
        strategy=strategy,
        options=options,
        summary=lambda key: SUMMARY_OF * 40 if int(key, 16) % 2 else None,
    )


@given(ANY, BUDGETS, MEASURES, STRATEGIES, SETTINGS)
def test_within_budget_or_refused(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy, options: ContextOptions
) -> None:
    """What comes out has at most the tokens that may be sent; else it is said what is too large."""
    try:
        fitted = made_to_fit(messages, size, weigh, strategy, options)
    except DoesNotFit as refused:
        numbers = (refused.tokens, refused.least, refused.most, refused.what)
    else:
        sent = size.fixed + sum(weights(fitted.messages, weigh))
        assert sent <= fitted.tokens <= max(size.most, size.high)
        assert fitted.original_tokens == size.fixed + sum(weights(messages, weigh))
        return
    tokens, least, most, what = numbers
    assert tokens >= least > most == size.most
    assert what


@given(ANY, BUDGETS, MEASURES, STRATEGIES)
def test_deterministic_and_without_side_effects(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy
) -> None:
    """The same conversation gives the same messages, and stays as it was."""
    before = copy.deepcopy(messages)
    results = []
    for given_messages in (messages, copy.deepcopy(messages)):
        try:
            fitted = made_to_fit(given_messages, size, weigh, strategy)
            results.append((list(fitted.messages), fitted.cut_key, fitted.changes, fitted.tokens))
        except DoesNotFit as refused:
            results.append(([], None, (), refused.least))
    assert messages == before
    assert results[0] == results[1]


@given(ANY, BUDGETS, MEASURES, STRATEGIES, SETTINGS)
def test_fitting_again_changes_nothing(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy, options: ContextOptions
) -> None:
    """A fitted conversation comes back as the identical object."""
    try:
        once = made_to_fit(messages, size, weigh, strategy, options)
    except DoesNotFit:
        return
    again = made_to_fit(once.messages, size, weigh, strategy, options)
    assert again.messages is once.messages, (again.messages, once.messages)


@given(ANY, BUDGETS, MEASURES, STRATEGIES)
def test_system_messages_are_never_touched(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy
) -> None:
    """Not even where texts have to be shortened."""
    try:
        fitted = made_to_fit(messages, size, weigh, strategy)
    except DoesNotFit:
        return
    system = [m for m in messages if m["role"] in ("system", "developer")]
    assert [m for m in fitted.messages if m["role"] in ("system", "developer")] == system


@given(ANY, BUDGETS, MEASURES, STRATEGIES)
def test_what_is_never_dropped(messages: Any, size: Budget, weigh: Any, strategy: Strategy) -> None:
    """Both outer user messages and the last round survive, whole where that is possible."""
    try:
        fitted = made_to_fit(messages, size, weigh, strategy, NEVER)
    except DoesNotFit:
        return
    sent = list(fitted.messages)
    users = [m for m in messages if m["role"] == "user"]
    said = _words(sent)
    for user in (users[:1], users[-1:]):
        assert all(text in said for text in _texts(user))
    rounds = [place for place, m in enumerate(messages) if m["role"] in ("assistant", "strange")]
    if rounds:
        own = {call["id"] for call in messages[rounds[-1]].get("tool_calls", ())}
        assert messages[rounds[-1]] in sent
        for message in messages[rounds[-1] :]:
            if message.get("tool_call_id") in own:
                assert any(m.get("tool_call_id") == message["tool_call_id"] for m in sent)


@given(proper(), BUDGETS, MEASURES, STRATEGIES)
def test_valid_for_strict_templates(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy
) -> None:
    """Roles alternate, and a call and its result are never parted."""
    assume(strict_template(messages) is None)
    try:
        fitted = made_to_fit(messages, size, weigh, strategy)
    except DoesNotFit:
        return
    assert strict_template(fitted.messages) is None


@given(ANY, BUDGETS, MEASURES)
def test_pairs_stay_together_wherever_they_stand(messages: Any, size: Budget, weigh: Any) -> None:
    """Also where a result stands later than it should."""
    for place, message in enumerate(messages):
        message["n"] = str(place)  # to know them again
    try:
        fitted = made_to_fit(messages, size, weigh)
    except DoesNotFit:
        return
    sent = {message.get("n") for message in fitted.messages}
    waiting: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            waiting[call["id"]] = message["n"]
        if message["role"] == "tool" and message["tool_call_id"] in waiting:
            assert (message["n"] in sent) == (waiting.pop(message["tool_call_id"]) in sent)


@given(proper(most_turns=25), BUDGETS, MEASURES, st.sampled_from([Strategy.WINDOW, Strategy.RESET]))
def test_prefix_is_stable_between_cuts(
    messages: Any, size: Budget, weigh: Any, strategy: Strategy
) -> None:
    """Where no new cut was made, a request begins with all messages of the one before."""
    before: Fitted | None = None
    for request in requests(messages):
        try:
            now = made_to_fit(request, size, weigh, strategy)
        except DoesNotFit:
            before = None
            continue
        if before is not None and now.decided_at == before.decided_at:
            assert list(now.messages[: len(before.messages)]) == list(before.messages)
        before = now


@given(proper(), BUDGETS, st.data())
def test_later_weights_do_not_matter(messages: Any, size: Budget, data: st.DataObject) -> None:
    """Behind the last decision, upper bounds give the plan that exact counts would give."""
    exact = weights(messages, by_bytes)
    bounds = [tokens + data.draw(st.integers(0, 40)) for tokens in exact]
    said = {"budget": size, "weigh": by_bytes, "strategy": Strategy.WINDOW, "options": OPTIONS}
    try:
        guessed = fit(messages, bounds, **said)  # type: ignore[arg-type]
    except DoesNotFit:
        return
    known = exact[: guessed.decided_at + 1] + bounds[guessed.decided_at + 1 :]
    if known[: guessed.decided_at + 1] == bounds[: guessed.decided_at + 1]:
        assert list(fit(messages, exact, **said).messages) == list(guessed.messages)  # type: ignore[arg-type]


@given(ANY, BUDGETS, STRATEGIES)
def test_counting_what_was_guessed_comes_to_an_end(
    messages: Any, size: Budget, strategy: Strategy
) -> None:
    """A caller that counts what `weigh` was asked about, and asks again, gets the plan of exact counts."""
    counted: dict[str, int] = {}

    def bound(message: Mapping[str, Any]) -> int:
        key = json.dumps(message)
        if key not in counted:
            asked[key] = by_script(message)
        return counted.get(key, 4 + len(key.encode()) + by_script(message))

    said = {"budget": size, "strategy": strategy, "options": OPTIONS}
    exact = weights(messages, by_script)
    plan: list[Any] = []
    for _ in range(8):
        asked: dict[str, int] = {}
        try:
            plan = list(fit(messages, exact, weigh=bound, **said).messages)  # type: ignore[arg-type]
        except DoesNotFit:
            plan = []
        if not asked:
            break
        counted |= asked
    assert not asked
    try:
        assert plan == list(fit(messages, exact, weigh=by_script, **said).messages)  # type: ignore[arg-type]
    except DoesNotFit:
        assert plan == []


@given(ANY, BUDGETS, STRATEGIES)
def test_fates_tell_the_whole_story(messages: Any, size: Budget, strategy: Strategy) -> None:
    """Every message has its fate, and the tokens of all of them add up to what is sent."""
    try:
        fitted = made_to_fit(messages, size, by_bytes, strategy)
    except DoesNotFit:
        return
    fates = fitted.fates(weights(messages, by_bytes))
    assert len(fates) == len(messages)
    assert sum(fate.kind is Kind.DROPPED for fate in fates) == len(fitted.dropped)
    assert (fitted.cut_key is None) == (not fitted.dropped)
    left = size.fixed + sum(fate.after for fate in fates)
    assert left <= fitted.tokens <= left + size.window // 16 + 60  # a note or a summary
    assert all(fate.after <= fate.before and fate.reason for fate in fates)


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, list):
            found += [part["text"] for part in content if "text" in part]
    return found


def _words(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_texts(messages))
