"""Tool calls in streams: what flows, what is held, what comes out in the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.chat import TextDelta, ToolCallDelta
from penstock.toolcalls.arguments import Verdict, check_arguments
from penstock.toolcalls.resume import ending
from penstock.toolcalls.schema import ToolSet
from penstock.toolcalls.stream import AnswerMender, Mended, Out, Rules

BOOL, TEXT, WHOLE = {"type": "boolean"}, {"type": "string"}, {"type": "integer"}
PROPERTIES: dict[str, Any] = {
    "city": TEXT,
    "days": WHOLE,
    "rec": BOOL,
    "share": {"type": "number"},
    "unit": {"enum": ["c", "f"]},
    "note": {"anyOf": [TEXT, {"type": "null"}]},
    "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
    "any": {},
    "free": {"type": "object"},
}
ROW = {"type": "object", "properties": {"a": BOOL, "below": {"$ref": "#/$defs/row"}}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "$defs": {"row": ROW}}


def tool(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A tool as clients offer it."""
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool("look", SCHEMA),
    tool("ping", {"type": "object", "properties": {}}),
    tool("must", {"type": "object", "properties": {"ok": BOOL}, "required": ["ok"]}),
]
LOOK = ToolSet.of(TOOLS).get("look")


class Run:
    """
    One answer through a mender.

    Attributes:
        outs: all that went out.
        mended: what is announced.
    """

    def __init__(
        self, *, repair: bool = True, recover: bool = True, earlier: Iterable[str] = ()
    ) -> None:
        tools = ToolSet.of(TOOLS)
        self.mended: list[Mended] = []
        rules = Rules(lambda: tools, repair, recover, lambda: earlier, "seed")
        self.mender = AnswerMender(rules, 0, self.mended)
        self.outs: list[Out] = []

    def call(self, arguments: str, *, index: int | None = 0, id: str = "", name: str = "") -> None:
        """A piece of a call."""
        token = ("call", index, id, name, arguments)
        self.outs += self.mender.call(token, index=index, id=id, name=name, arguments=arguments)

    def text(self, text: str) -> None:
        """A piece of text."""
        self.outs += self.mender.text(("text", text), text)

    def finish(self, reason: str | None = "stop") -> str | None:
        """The end; the finish reason that is true."""
        outs, told = self.mender.finish(reason)
        self.outs += outs
        return told

    @property
    def told(self) -> list[str]:
        """What became of calls."""
        return [one.became.value for one in self.mended]

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        """Id, name and arguments of the calls, put together as the official client does it."""
        calls: dict[int, list[str]] = {}
        for out in self.outs:
            delta = out.delta
            if delta is None and out.token[0] == "call":
                _, number, *piece = out.token
            elif isinstance(delta, ToolCallDelta):
                number, piece = delta.call, [delta.id, delta.name, delta.arguments]
            else:
                continue
            if number not in calls:
                assert number == len(calls), "calls begin in the order of their numbers"
                calls[number] = ["", "", ""]
            calls[number] = [a + b for a, b in zip(calls[number], piece, strict=True)]
        return [(id, name, arguments) for id, name, arguments in calls.values()]

    @property
    def arguments(self) -> str:
        """Of the only call."""
        ((_, _, arguments),) = self.calls
        return arguments

    @property
    def said(self) -> str:
        """The text."""
        return "".join(
            out.delta.text if isinstance(out.delta, TextDelta) else out.token[1]
            for out in self.outs
            if isinstance(out.delta, TextDelta) or (out.delta is None and out.token[0] == "text")
        )


def in_pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """*text*, cut."""
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)] or [""]


def in_steps(text: str, step: int) -> list[str]:
    """*text* in pieces of one size."""
    return [text[at : at + step] for at in range(0, len(text), step)]


def one_call(pieces: Iterable[str], reason: str | None = "stop") -> tuple[Run, str | None]:
    """A run of one call."""
    run = Run()
    run.call("", id="x", name="look")
    for piece in pieces:
        run.call(piece)
    return run, run.finish(reason)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "wanted", "reason", "told"),
    [
        pytest.param('{"city": "Oslo", "days": 3}', None, "tool_calls", [], id="valid"),
        pytest.param(' {"city" :"a\\u00e9\\ud83d\\ude00\\n"} ', None, "tool_calls", [], id="valid, odd spacing, escapes"),
        pytest.param('{"city":"a","city":"b"}', None, "tool_calls", [], id="valid, a key twice"),
        pytest.param('{"city": "True", "note": "null", "any": "5"}', None, "tool_calls", [], id="texts stay texts"),
        pytest.param('{"city": "O", "rec": "True"}', '{"city": "O", "rec": true}', "tool_calls", ["repaired"], id="boolean"),
        pytest.param('{"days": "5", "city": "O"}', '{"days": 5, "city": "O"}', "tool_calls", ["repaired"], id="integer"),
        pytest.param('{"rec": True}', '{"rec":true}', "tool_calls", ["repaired"], id="the True of Python"),
        pytest.param("{'city': 'x'}", '{"city":"x"}', "tool_calls", ["repaired"], id="single quotes"),
        pytest.param('{"unit": "C"}', '{"unit": "c"}', "tool_calls", ["repaired"], id="enum case"),
        pytest.param('{"rows": {"a": true}}', '{"rows": [{"a": true}]}', "tool_calls", ["repaired"], id="one where many are wanted"),
        pytest.param('{"rows": [{"below": {"a": "no"}}]}', '{"rows": [{"below": {"a": false}}]}', "tool_calls", ["repaired"], id="deep, by a $ref in a cycle"),
        pytest.param('{"city": "x",}', '{"city":"x"}', "tool_calls", ["repaired"], id="trailing comma"),
        pytest.param('{"city": "a\nb", "days": 3}', '{"city":"a\\nb","days":3}', "tool_calls", ["repaired"], id="a line break in a text that is half out"),
        pytest.param('{"city": "say "hi" to", "days": 3}', '{"city":"say \\"hi\\" to","days":3}', "tool_calls", ["repaired"], id="bare quotation marks in a text that is half out"),
        pytest.param('"{\\"city\\":\\"x\\"}"', '{"city":"x"}', "tool_calls", ["repaired"], id="a string that holds JSON"),
        pytest.param('```json\n{"city":"x"}\n```', '{"city":"x"}', "tool_calls", ["repaired"], id="in a fence"),
        pytest.param("", "{}", "tool_calls", ["repaired"], id="nothing"),
        pytest.param('{"days": 5.5}', None, "tool_calls", ["flagged"], id="beyond repair"),
        pytest.param('{"city": "O', None, "length", ["cut_off"], id="cut in a text"),
        pytest.param('{"city": "O", "rec": "Tr', None, "length", ["cut_off"], id="cut where it was held"),
        pytest.param('{"rows": [{"a": true}', None, "length", ["cut_off"], id="cut with brackets open"),
        pytest.param("{'city': 'O", None, "length", ["cut_off"], id="cut, and broken before"),
    ],
)  # fmt: skip
def test_what_comes_out(
    text: str, wanted: str | None, reason: str, told: list[str], step: int
) -> None:
    """In whatever pieces it comes: right as it was, repaired, flagged, or cut off and never completed."""
    run, true_reason = one_call(in_steps(text, step))
    if wanted is None:
        assert run.calls == [("x", "look", text)]
    else:
        assert json.loads(run.arguments) == json.loads(wanted)
    assert (true_reason, run.told) == (reason, told)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.sampled_from(["True", " false ", "no", "5", "5.0", "null", "C", "c", "[1]", '{"a": "True"}']),
)  # fmt: skip
NAMES = st.sampled_from(["a", "below", "x"]) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ROWS = st.recursive(
    st.fixed_dictionaries({}, optional={"a": st.booleans()}),
    lambda inner: st.fixed_dictionaries({}, optional={"a": st.booleans(), "below": inner}),
    max_leaves=4,
)
RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "city": st.text(), "days": st.integers(-9, 9), "rec": st.booleans(), "share": st.floats(-5, 5),
        "unit": st.sampled_from(["c", "f"]), "note": st.none() | st.text(), "rows": st.lists(ROWS, max_size=3),
        "any": VALUES, "free": st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
    },
)  # fmt: skip
WRONG = st.dictionaries(st.sampled_from([*PROPERTIES, "other"]), VALUES, max_size=5)
CUTS = st.lists(st.integers(0, 400), max_size=12)
INDENTS = st.sampled_from([None, 2])


def written(value: Any, ascii: bool, indent: int | None = None) -> str:
    """JSON of one of several looks."""
    return json.dumps(value, ensure_ascii=ascii, indent=indent)


@given(RIGHT, st.booleans(), INDENTS, CUTS)
def test_right_arguments_go_on_as_they_came(
    value: Any, ascii: bool, indent: int | None, cuts: list[int]
) -> None:
    """Each piece is the very token that came in, in order, and none is left."""
    text = written(value, ascii, indent)
    run, reason = one_call(in_pieces(text, cuts))
    assert all(out.delta is None for out in run.outs)
    assert run.arguments == text
    assert (reason, run.told) == ("tool_calls", [])


@given(RIGHT | WRONG, st.booleans(), INDENTS, CUTS)
def test_the_stream_says_what_the_whole_says(
    value: Any, ascii: bool, indent: int | None, cuts: list[int]
) -> None:
    """In any pieces, JSON ends as the verdict on the whole says: what went out is never taken back."""
    text = written(value, ascii, indent)
    run, reason = one_call(in_pieces(text, cuts))
    checked = check_arguments(text, LOOK, cut_off=False)
    assert run.arguments == checked.text
    assert reason == "tool_calls"
    assert run.told == ([] if checked.verdict is Verdict.VALID else [checked.verdict.value])


@given(RIGHT | WRONG, st.data())
def test_broken_arguments_validate_or_are_what_came(value: Any, data: st.DataObject) -> None:
    """Whatever is done to the text: what is announced as repaired validates, all else is as it came."""
    text = written(value, ascii=False)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = min(len(text), at + data.draw(st.integers(0, 3)))
        put = data.draw(st.sampled_from(["", '"', "'", ",", "}", "\n", "\\", "True", "0"]))
        text = text[:at] + put + text[until:]
    run, reason = one_call(in_pieces(text, data.draw(CUTS)))
    if run.told == ["repaired"]:
        assert LOOK is not None
        assert LOOK.validates(json.loads(run.arguments))
        assert reason == "tool_calls"
    else:
        assert run.arguments == text
        assert reason == ("length" if run.told == ["cut_off"] else "tool_calls")


@given(
    RIGHT | WRONG,
    st.integers(0, 400),
    st.sampled_from(["stop", "tool_calls", "length"]),
    CUTS,
)
def test_cut_is_never_completed(value: Any, end: int, reason: str, cuts: list[int]) -> None:
    """Arguments that end too early are what came, whatever the server calls the end."""
    whole = written(value, ascii=True)
    text = whole[: max(1, min(end, len(whole) - 1))]
    run, true_reason = one_call(in_pieces(text, cuts), reason)
    assert run.arguments == text
    assert run.told == ["cut_off"]
    assert true_reason == "length"


@given(RIGHT | WRONG, st.integers(0, 400), CUTS)
def test_a_broken_stream_lets_go_what_is_held(value: Any, end: int, cuts: list[int]) -> None:
    """As it came, nothing more."""
    text = written(value, ascii=True)[:end]
    run = Run()
    run.call("", id="x", name="look")
    for piece in in_pieces(text, cuts):
        run.call(piece)
    run.outs += run.mender.broken()
    assert run.arguments == text


@given(VALUES, st.booleans(), INDENTS, st.integers(0, 400))
def test_an_ending_leads_to_the_value(value: Any, ascii: bool, indent: int | None, at: int) -> None:
    """A beginning of a value's own JSON is ended so that it is that value, or not at all."""
    begun = written(value, ascii, indent)[:at]
    rest = ending(begun, value)
    assert rest is None or json.loads(begun + rest) == value


@pytest.mark.parametrize(
    ("begun", "value", "rest"),
    [
        pytest.param("", {"a": 1}, '{"a":1}', id="nothing"),
        pytest.param('{"a": "x', {"a": "xy", "b": []}, 'y","b":[]}', id="within a text"),
        pytest.param('{"a"', {"a": True}, ":true}", id="before the colon"),
        pytest.param('{"a": [1', {"a": [1, {"b": 2}]}, ',{"b":2}]}', id="within an array"),
        pytest.param('{"a": 1}', {"a": 1}, "", id="the whole"),
        pytest.param('{"a": 1', {"b": 1}, None, id="another key"),
        pytest.param('{"a": 1', {"a": True}, None, id="one is not true"),
        pytest.param('{"a": "xz', {"a": "xy"}, None, id="another text"),
        pytest.param('{"a": 1}', {"a": 1, "b": 2}, None, id="closed too early"),
        pytest.param('{"a": 1} x', {"a": 1}, None, id="something behind it"),
        pytest.param('{"a": [1, 2', {"a": [1]}, None, id="an element too many"),
        pytest.param('{"a": 1,', {"a": 1}, None, id="a comma too many"),
    ],
)
def test_endings(begun: str, value: Any, rest: str | None) -> None:
    """What is missing is written, and declined where the beginning says something else."""
    assert ending(begun, value) == rest


def test_texts_flow() -> None:
    """A long text goes out piece by piece; only what may be wrong is waited for."""
    run = Run()
    run.call('{"city": "', id="x", name="look")
    for number in range(50):
        before = len(run.outs)
        run.call(f"line {number}\\n")
        assert len(run.outs) == before + 1
    run.call('", "rec": "Tr')
    run.call("ue")
    assert run.arguments.endswith("line 49\\n")
    run.call('"}')
    run.finish()
    assert json.loads(run.arguments)["rec"] is True


@pytest.mark.parametrize(
    ("schema", "begin", "flows"),
    [
        pytest.param({"anyOf": [TEXT, {"type": "null"}]}, '"', True, id="text or null: a text"),
        pytest.param({"anyOf": [BOOL, {"type": "null"}]}, '"', False, id="boolean or null: a text"),
        pytest.param({"type": ["string", "boolean"]}, '"', True, id="both kinds are fine"),
        pytest.param({"allOf": [{"$ref": "#/$defs/text"}]}, '"', True, id="by a reference"),
        pytest.param({"$ref": "#/$defs/round"}, '"', False, id="a reference to itself"),
        pytest.param({"$ref": "#/$defs/none"}, '"', False, id="a reference to nowhere"),
        pytest.param({}, '"', True, id="nothing is said"),
        pytest.param(TEXT, "{", False, id="an object for a text"),
        pytest.param({"type": "array"}, '"', False, id="a text for an array"),
        pytest.param({"type": "array", "prefixItems": [TEXT, BOOL]}, '["a", "', False, id="by its place in an array"),
        pytest.param({"type": "array", "items": TEXT}, '["a", "', True, id="by its array"),
        pytest.param({"type": "object", "additionalProperties": TEXT}, '{"k": "', True, id="any key, texts"),
        pytest.param({"type": "object", "additionalProperties": BOOL}, '{"k": "', False, id="any key, booleans"),
        pytest.param({"type": "object", "properties": {"a": TEXT}}, '{"b": "', False, id="a key that is not named"),
        pytest.param({"anyOf": [{"type": "object", "properties": {"a": TEXT}}, {"type": "object", "properties": {"b": BOOL}}]}, '{"a": "', True, id="the alternative that has the key"),
        pytest.param({"if": {}, "then": {}, "type": "object"}, '{"a": "', False, id="a schema that is not followed"),
    ],
)  # fmt: skip
def test_what_may_flow(schema: dict[str, Any], begin: str, flows: bool) -> None:
    """By the schema of the very place: a value that could need repair does not begin to flow."""
    root = {
        "type": "object",
        "properties": {"v": schema},
        "$defs": {"text": TEXT, "round": {"$ref": "#/$defs/round"}},
    }
    tools = ToolSet.of([tool("t", root)])
    mender = AnswerMender(Rules(lambda: tools, True, True, tuple, "seed"), 0, [])
    if not (found := tools.get("t")) or not found.usable:
        return  # a schema that does not compile repairs nothing
    mender.call("head", index=0, id="x", name="t", arguments="")
    mender.call("begin", index=0, arguments='{"v": ')
    outs = mender.call("value", index=0, arguments=begin)
    assert ([out.token for out in outs] == ["value"]) is flows


def test_without_repair_everything_flows() -> None:
    """With the setting off arguments are the server's own; what was cut off is still told."""
    run = Run(repair=False)
    run.call('{"rec": "True"}', id="x", name="look")
    assert run.arguments == '{"rec": "True"}'
    assert run.finish() == "tool_calls"
    run = Run(repair=False)
    run.call('{"rec": "True', id="x", name="look")
    assert run.finish("tool_calls") == "length"


A, B = '{"city": "A"}', '{"city": "B"}'
MADE = ["call_seed_0", "call_seed_1"]


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        pytest.param([(0, "x", "look", A), (1, "y", "look", B)], ["x", "y"], id="as it should be"),
        pytest.param([(0, "x", "look", A), (0, "y", "look", B)], ["x", "y"], id="index 0 for all"),
        pytest.param([(0, "x", "look", ""), (0, "", "", A), (0, "y", "look", ""), (0, "", "", B)], ["x", "y"], id="index 0 for all, in pieces"),
        pytest.param([(0, "", "look", A), (0, "", "look", B)], MADE, id="index 0 and no ids"),
        pytest.param([(0, "", "look", A), (1, "", "look", B)], MADE, id="no ids"),
        pytest.param([(None, "x", "look", A), (None, "y", "look", B)], ["x", "y"], id="no index"),
        pytest.param([(None, "", "look", A[:4]), (None, "", "", A[4:]), (None, "", "look", B)], MADE, id="no index and no ids"),
        pytest.param([(0, "x", "look", A), (1, "x", "look", B)], ["x", "call_seed_1"], id="one id for both"),
        pytest.param([(1, "x", "look", A), (2, "y", "look", B)], ["x", "y"], id="counted from 1"),
        pytest.param([(0, "x", "look", A[:5]), (1, "y", "look", B[:5]), (0, "", "", A[5:]), (1, "", "", B[5:])], ["x", "y"], id="side by side"),
        pytest.param([(0, "x", "look", A[:5]), (0, "x", "look", A[5:]), (1, "y", "look", B)], ["x", "y"], id="id and name in each piece"),
        pytest.param([(0, "x", "lo", ""), (0, "", "ok", ""), (0, "", "", A), (1, "y", "look", B)], ["x", "y"], id="a name in two pieces"),
    ],
)  # fmt: skip
def test_numbers_and_ids(pieces: list[tuple[int | None, str, str, str]], wanted: list[str]) -> None:
    """Several calls, however the server numbers them: each has an index and an id of its own."""
    run = Run()
    for index, id, name, arguments in pieces:
        run.call(arguments, index=index, id=id, name=name)
    assert run.finish("stop") == "tool_calls"
    assert run.calls == [(wanted[0], "look", A), (wanted[1], "look", B)]


def test_what_only_the_whole_tells_is_flagged() -> None:
    """Nothing was suspicious on the way, and yet something is missing: it goes on, and is told."""
    run = Run()
    run.call("{", id="x", name="must")
    run.call("}")
    assert run.arguments == "{"  # the end waits: it might have been repaired
    assert run.finish() == "tool_calls"
    assert run.arguments == "{}"
    assert run.told == ["flagged"]


def test_a_held_call_does_not_hold_up_its_neighbour() -> None:
    """Each call is judged by its own tool, and goes on by itself."""
    run = Run()
    run.call('{"rec": "True', id="x", name="look")
    run.call('{"ok": tr', index=1, id="y", name="must")
    run.call('"}', index=0)
    run.call("ue}", index=1)
    assert run.calls[1] == ("y", "must", '{"ok": true}')
    run.finish()
    assert run.calls[0] == ("x", "look", '{"rec": true}')


def test_the_output_limit_cuts_the_last_call_only() -> None:
    """The one before it was whole, and is repaired."""
    run = Run()
    run.call('{"rec": "True"}', id="x", name="look")
    run.call('{"rec": "True"', index=1, id="y", name="look")
    assert run.finish("length") == "length"
    assert [call[2] for call in run.calls] == ['{"rec": true}', '{"rec": "True"']
    assert run.told == ["repaired", "cut_off"]


HERMES = '<tool_call>\n{"name": "look", "arguments": {"city": "O", "rec": "True"}}\n</tool_call>'
TWO = (
    '<tool_call>{"name": "ping", "arguments": {}}</tool_call>\n'
    '<tool_call>{"name": "look", "arguments": {"days": 3}}</tool_call>'
)
DAYS = ("look", '{"days": 3}')
THOUGHT = f"<think>I shall {HERMES}</think>"


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "calls", "said"),
    [
        pytest.param(HERMES, [("look", '{"city": "O", "rec": true}')], "", id="Hermes"),
        pytest.param(TWO, [("ping", "{}"), DAYS], "", id="two"),
        pytest.param('[TOOL_CALLS] [{"name": "look", "arguments": {"days": 3}}]', [DAYS], "", id="Mistral"),
        pytest.param('<|python_tag|>{"name": "look", "parameters": {"days": 3}}', [DAYS], "", id="Llama 3"),
        pytest.param('{"name": "look", "parameters": {"days": 3}}', [DAYS], "", id="bare"),
        pytest.param(f"{THOUGHT}\n\n{TWO}", [("ping", "{}"), DAYS], THOUGHT, id="behind thinking"),
        pytest.param("Hello <tool_call>", [], None, id="text"),
        pytest.param("<tool", [], None, id="the beginning of a mark"),
        pytest.param("<tool_calls are nice", [], None, id="almost a mark"),
        pytest.param(HERMES + " and so on", [], None, id="text behind it"),
        pytest.param("```\n" + HERMES + "\n```", [], None, id="in a fence"),
        pytest.param(HERMES.replace("look", "unknown"), [], None, id="a tool that was not offered"),
        pytest.param(HERMES[:-30], [], None, id="cut off"),
        pytest.param("<think>only thinking", [], None, id="thinking only"),
        pytest.param("<think>so</think>Hello", [], None, id="thinking, then text"),
        pytest.param('{"answer": 42}', [], None, id="JSON that is no call"),
        pytest.param("  \n ", [], None, id="white space"),
    ],
)  # fmt: skip
def test_text_that_is_a_call(
    text: str, calls: list[tuple[str, str]], said: str | None, step: int
) -> None:
    """It becomes one; all else goes on as it came, however it was cut."""
    run = Run()
    for piece in in_steps(text, step):
        run.text(piece)
    reason = run.finish("stop")
    assert [(name, arguments) for _, name, arguments in run.calls] == calls
    assert run.said.strip() == (text if said is None else said).strip()
    if said is None:
        assert run.said == text
    assert reason == ("tool_calls" if calls else "stop")
    assert run.told == ["recovered"] * len(calls)
    assert len({id for id, _, _ in run.calls}) == len(calls)


def test_text_flows_as_soon_as_it_is_no_call() -> None:
    """Nothing is held of an answer that begins with a word."""
    run = Run()
    assert not run.mender.is_idle
    run.text("Hel")
    assert run.said == "Hel"
    assert run.mender.is_idle


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(Run(recover=False), id="switched off"),
        pytest.param(Run(earlier=["see " + HERMES]), id="its markup stands in an earlier message"),
    ],
)
def test_text_stays_text(run: Run) -> None:
    """Where the setting or the conversation speaks against a call."""
    run.text(HERMES)
    assert run.finish("stop") == "stop"
    assert run.calls == []
    assert run.said == HERMES


def test_text_that_the_limit_cut_is_no_call() -> None:
    """Not even when what is there could be one."""
    run = Run()
    run.text(HERMES)
    assert run.finish("length") == "length"
    assert run.said == HERMES


def test_held_text_goes_before_a_real_call() -> None:
    """White space before a call is the server's own."""
    run = Run()
    run.text("\n\n")
    run.call(A, id="x", name="look")
    run.finish()
    assert run.said == "\n\n"
    assert run.outs[0].token == ("text", "\n\n")


def steps_of(count: int) -> int:
    """Function calls that an answer with so many array elements takes."""
    text = json.dumps({"rows": [{"a": True}] * count, "rec": "True"})
    steps = 0

    def note(*_: object) -> None:
        nonlocal steps
        steps += 1

    pieces = in_steps(text, 20)
    sys.setprofile(note)
    try:
        run, _ = one_call(pieces)
    finally:
        sys.setprofile(None)
    assert run.told == ["repaired"]
    return steps


def test_work_grows_with_the_text_only() -> None:
    """Four times the elements are about four times the work."""
    steps_of(10)
    assert steps_of(4000) < 5 * steps_of(1000)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="brackets"),
        pytest.param('{"any":' + "[" * 100_000 + "]" * 100_000 + "}", id="nested arrays"),
        pytest.param('{"any":' * 50_000, id="nested objects"),
        pytest.param('{"' + "k" * 1_000_000, id="a key without end"),
        pytest.param('{"days": ' + "9" * 100_000, id="a number without end"),
        pytest.param('{"city": "\\u0000", "__proto__": {"a": 1}}', id="odd names"),
        pytest.param('{"city": "' + "x" * 1_000_000 + '"}', id="a megabyte of text"),
        pytest.param('{"city": "\ud800"}', id="half a pair"),
        pytest.param('{"city": "\\ud800"}', id="half an escaped pair"),
    ],
)  # fmt: skip
def test_what_nobody_expects_does_no_harm(text: str) -> None:
    """It goes on as it came, in linear time and without running out of stack."""
    run, _ = one_call(in_steps(text, 999))
    assert run.arguments == text
