"""Messages that the model's template can take (behaviours D4, D5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.profile import TemplateRules
from penstock.template import learn, make_valid, rename_reasoning

STRICT = TemplateRules(late_system=False, same_role_neighbours=False)


def m(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


def roles(messages: Any) -> list[str]:
    """Their roles."""
    return [message["role"] for message in messages]


@pytest.mark.parametrize(
    ("given_roles", "rules", "expected"),
    [
        pytest.param(["system", "user"], TemplateRules(), ["system", "user"], id="nothing known, nothing done"),
        pytest.param(["developer", "user"], TemplateRules(), ["system", "user"], id="developer is called system"),
        pytest.param(["developer", "user"], TemplateRules(developer_role=True), ["developer", "user"], id="unless the template has it"),
        pytest.param(["user", "system", "user"], TemplateRules(), ["user", "system", "user"], id="late system where nobody minds"),
        pytest.param(["system", "user", "system", "user"], TemplateRules(late_system=False), ["system", "user", "user", "user"], id="late system in place"),
        pytest.param(["system", "user"], TemplateRules(system_role=False), ["user", "user"], id="no system role at all"),
        pytest.param(["system", "user", "system", "user"], STRICT, ["system", "user"], id="strict: merged"),
        pytest.param(["user", "user", "assistant", "assistant"], STRICT, ["user", "assistant"], id="neighbours merged"),
        pytest.param(["user", "tool", "tool"], STRICT, ["user", "tool", "tool"], id="tool results stay apart"),
    ],
)  # fmt: skip
def test_roles(given_roles: list[str], rules: TemplateRules, expected: list[str]) -> None:
    """What each template needs, and no more."""
    assert roles(make_valid([m(role) for role in given_roles], rules).messages) == expected


def test_what_needs_nothing_is_the_same_object() -> None:
    """So that the client's own bytes go on."""
    messages = [m("system"), m("user"), m("assistant")]
    valid = make_valid(messages, TemplateRules())
    assert valid.messages is messages
    assert not valid.changes


def test_a_late_system_message_keeps_its_words_and_place() -> None:
    """Moving it would break the prefix."""
    valid = make_valid(
        [m("user", "a"), m("system", "be kind"), m("user", "b")], TemplateRules(late_system=False)
    )
    assert valid.messages[1]["role"] == "user"
    assert valid.messages[1]["content"].endswith("be kind")
    assert valid.changes[0].field == "messages[1].role"


def test_tool_calls_are_never_merged_away() -> None:
    """Neighbours with calls stay as they are."""
    call = m("assistant", None, tool_calls=[{"id": "1"}])
    assert roles(make_valid([m("user"), call, m("assistant")], STRICT).messages) == [
        "user",
        "assistant",
        "assistant",
    ]


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
CONTENT = st.one_of(
    st.none(), st.text(max_size=8), st.lists(st.just({"type": "text", "text": "p"}), max_size=2)
)
MESSAGES = st.lists(st.builds(m, ROLES, CONTENT), max_size=10)
FLAG = st.sampled_from([None, True, False])
RULES = st.builds(
    TemplateRules,
    system_role=FLAG,
    developer_role=FLAG,
    late_system=FLAG,
    same_role_neighbours=FLAG,
)


@given(MESSAGES, RULES)
def test_it_is_idempotent_and_deterministic(messages: list[Any], rules: TemplateRules) -> None:
    """Valid messages are not touched again, and the same goes in as comes out each time."""
    once = make_valid(messages, rules)
    assert make_valid(messages, rules) == once
    again = make_valid(once.messages, rules)
    assert list(again.messages) == list(once.messages)
    assert not again.changes


@given(MESSAGES, RULES)
def test_no_word_is_lost(messages: list[Any], rules: TemplateRules) -> None:
    """Every text of the conversation is still in it."""
    after = str([message["content"] for message in make_valid(messages, rules).messages])
    for message in messages:
        if isinstance(message["content"], str) and message["content"].isalnum():
            assert message["content"] in after


@pytest.mark.parametrize(
    ("refusal", "learned"),
    [
        ("System message must be at the beginning.", {"late_system": False}),
        ("Conversation roles must alternate user/assistant/user/assistant/...", {"same_role_neighbours": False, "late_system": False}),
        ("System role not supported", {"system_role": False}),
        ("Unexpected message role: developer", {"developer_role": False}),
        ("out of memory", {}),
    ],
)  # fmt: skip
def test_rules_are_learned_from_refusals(refusal: str, learned: dict[str, bool]) -> None:
    """The server's own words say what its template does not take."""
    assert learn(TemplateRules(), refusal) == TemplateRules(**learned)


@pytest.mark.parametrize("sent", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("wanted", ["reasoning_content", "reasoning", "thinking"])
def test_returned_thinking_has_the_servers_name(sent: str, wanted: str) -> None:
    """Under any name it is one thing, and it is never dropped."""
    messages = [m("user"), m("assistant", "a", **{sent: "hm"}), m("user")]
    renamed = rename_reasoning(messages, wanted)
    assert renamed.messages[1][wanted] == "hm"
    assert bool(renamed.changes) == (sent != wanted)


@pytest.mark.parametrize("role", ["system", "user"])
def test_long_conversations_of_one_role_are_quick(role: str) -> None:
    """Work grows with their length, not with its square: 40,000 messages at least are no matter."""
    messages = [m(role, "x" * 100) for _ in range(40_000)]
    for rules in (TemplateRules(), TemplateRules(late_system=False), STRICT):
        valid = make_valid(messages, rules)
        assert len(valid.messages) >= 1


def test_thinking_is_not_merged_away() -> None:
    """A message that carries more than text stays one of its own."""
    messages = [
        m("user"),
        m("assistant", "a", reasoning_content="one"),
        m("assistant", "b", reasoning_content="two"),
    ]
    assert make_valid(messages, STRICT).messages is messages
