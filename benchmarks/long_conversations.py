"""
The conversations that are measured: long, with tool calls whose results are of every size, and the same on
every machine (all chance comes from a seed).

The assistant's part is written down too. A client puts it into its history instead of what the tiny model
babbles, so that every way of fitting is given the same conversation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

Message = dict[str, Any]

WORDS = """
about above account across action after again agent all allow already also always amount and another answer any
archive array as ask at available back balance base batch be because been before begin behind below between block
board both branch break bridge build but by cache call can cannot careful case change channel check city class
clean clear client close code collect column come commit common compare complete config connect contain content
context copy correct cost could count cover create current data date day decide default delay delete depend detail
did differ direct do document does done door down draft each early edge empty end engine enough entry equal error
even event every exact example except expect fail fast fault few field file fill filter final find first fit fix
flow follow for format forward found from full function further gateway general get give good great green group
grow had half hand handle has have he head header help her here high hold house how idea if in index inside into is
issue it item its join keep key kind know label language large last late later layer lead learn least leave left
length less level library light like limit line link list little load local lock log long look loop lost low made
main make many map mark matter may mean measure memory merge message method middle might minute missing mode model
moment month more most move much must name near need network never new next night no node none normal not note
nothing now number object of off often old on once one only open option or order other our out over own page part
pass past path pause people place plain plan point port possible present problem process produce profile project
proper provide pull purpose push put queue quick quiet quite range rather reach read ready real reason record
reduce refuse release remain remove repair repeat reply report request require rest result return review right
river road room round row rule run safe same save say scale season second section see seem send sense separate
server session set several shape share short should show side signal similar simple since single size skip slot
slow small so some source space special split stable stage stand start state station stay step still stop store
stream string strong structure subject such sum support sure system table take task tell test text than that the
their them then there these they thing think this those though three through time title to today together token
tool top total toward trace track tree true try turn two type under unit until up update upper upstream use user
value version very view wait walk want warm warning was watch water way we week well were what when where which
while white who whole why wide will window wish with within without word work world would write wrong year yes yet
you young your zero
""".split()  # noqa: SIM905

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        },
    }
    for name, about, argument in (
        ("read_file", "read a file of the project", "path"),
        ("search", "find where words stand in the project", "words"),
        ("run_tests", "run the tests below a path", "path"),
        ("show_changes", "show what changed since a commit", "commit"),
    )
]


@dataclass(frozen=True, slots=True)
class Round:
    """A tool call, and what came back."""

    tool: str
    argument: str
    result: str
    thought: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, the rounds of tool calls that it takes, and the answer."""

    question: str
    rounds: tuple[Round, ...]
    answer: str
    thought: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system prompt and turns."""

    name: str
    system: str
    turns: tuple[Turn, ...]

    def requests(self, *, thinking: bool = False) -> Iterator[list[Message]]:
        """
        The messages of each request that an agent would send, one after the other.

        Args:
            thinking: the assistant's messages carry `reasoning_content`.
        """
        messages: list[Message] = [{"role": "system", "content": self.system}]
        call_number = 0
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            for round_ in turn.rounds:
                yield list(messages)
                call_number += 1
                call = f"call_{call_number}"
                name, argument = round_.tool, _argument_of(round_.tool)
                function = {"name": name, "arguments": json.dumps({argument: round_.argument})}
                asked: Message = {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": call, "type": "function", "function": function}],
                }
                if thinking:
                    asked["reasoning_content"] = round_.thought
                messages.append(asked)
                messages.append({"role": "tool", "tool_call_id": call, "content": round_.result})
            yield list(messages)
            answer: Message = {"role": "assistant", "content": turn.answer}
            if thinking:
                answer["reasoning_content"] = turn.thought
            messages.append(answer)


@dataclass(frozen=True, slots=True)
class Mix:
    """
    What a conversation is made of.

    Attributes:
        rounds: weights of turns with none, one, two and three tool calls.
        largest_bytes: of a tool's result; sizes are evenly spread on a logarithmic scale from 40 bytes up,
            so there are many small ones and some large.
    """

    rounds: tuple[int, int, int, int]
    largest_bytes: int


CHAT = Mix((80, 14, 4, 2), 3000)
"""A fifth of the turns calls tools; a result has 0.7 KB in the mean."""
AGENT = Mix((50, 30, 14, 6), 4096)
"""Half of the turns do; a result has 0.9 KB in the mean."""


def conversation(seed: int, turns: int, mix: Mix = CHAT) -> Conversation:
    """Make one."""
    chance = random.Random(f"conversation {seed}")
    return Conversation(
        name=f"conversation-{seed}",
        system=f"You are agent {seed} and help with a project. {_prose(chance, 400)}",
        turns=tuple(_turn(chance, mix) for _ in range(turns)),
    )


def vocabulary_text() -> str:
    """A text for the tiny model's vocabulary to be made from: all words, and a conversation of the same kind."""
    sample = [
        part
        for turn in conversation(0, 60, AGENT).turns
        for part in (turn.question, turn.answer, *(round_.result for round_ in turn.rounds))
    ]
    words = [*WORDS, *(word.capitalize() for word in WORDS)]
    return "\n".join([" ".join(words), json.dumps(TOOLS), _NOTES, *sample])


_NOTES = """
You may call one or more functions. For each function call, return a json object with function name and
arguments within tool_call tags: tools tool_response arguments parameters properties required system assistant
Earlier parts of this conversation were left out to fit the model's window.
"""


def _turn(chance: random.Random, mix: Mix) -> Turn:
    rounds = chance.choices((0, 1, 2, 3), mix.rounds)[0]
    return Turn(
        question=_prose(chance, chance.randint(40, 250)),
        rounds=tuple(_round(chance, mix.largest_bytes) for _ in range(rounds)),
        answer=_prose(chance, chance.randint(60, 400)),
        thought=_prose(chance, chance.randint(100, 600)),
    )


def _round(chance: random.Random, largest_bytes: int) -> Round:
    tool = chance.choice([tool["function"]["name"] for tool in TOOLS])
    size = round(40 * (largest_bytes / 40) ** chance.random())
    make = {"read_file": _code, "search": _found, "run_tests": _log, "show_changes": _diff}[tool]
    argument = "/".join(chance.choices(WORDS, k=3))
    return Round(tool, argument, make(chance, size), _prose(chance, chance.randint(60, 300)))


@cache
def _argument_of(tool: str) -> str:
    for known in TOOLS:
        if known["function"]["name"] == tool:
            return str(known["function"]["parameters"]["required"][0])
    raise KeyError(tool)


def _prose(chance: random.Random, size: int) -> str:
    words: list[str] = []
    length = 0
    while length < size:
        words.append(chance.choice(WORDS))
        length += len(words[-1]) + 1
    sentences = [" ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
    return " ".join(f"{sentence.capitalize()}." for sentence in sentences)


def _lines(size: int, line: Any) -> str:
    made: list[str] = []
    length = 0
    while length < size:
        made.append(line(len(made)))
        length += len(made[-1]) + 1
    return "\n".join(made)


def _code(chance: random.Random, size: int) -> str:
    def line(number: int) -> str:
        if number % 6 == 0:
            return f"def {chance.choice(WORDS)}_{chance.choice(WORDS)}({chance.choice(WORDS)}):"
        words = chance.choices(WORDS, k=4)
        return f"    {words[0]} = {words[1]}.{words[2]}({words[3]})"

    return _lines(size, line)


def _found(chance: random.Random, size: int) -> str:
    entries: list[dict[str, Any]] = []
    while len(json.dumps(entries)) < size:
        text = _prose(chance, 60)
        entries.append({"file": chance.choice(WORDS), "line": chance.randint(1, 99), "text": text})
    return json.dumps(entries)


def _log(chance: random.Random, size: int) -> str:
    def line(number: int) -> str:
        level = chance.choices(("INFO", "WARNING", "ERROR"), (90, 7, 3))[0]
        return f"{level} {' '.join(chance.choices(WORDS, k=8))} {number}"

    return _lines(size, line)


def _diff(chance: random.Random, size: int) -> str:
    def line(number: int) -> str:
        if number % 12 == 0:
            return f"@@ -{number},6 +{number},6 @@ {chance.choice(WORDS)}"
        return chance.choice(" +-") + " " + " ".join(chance.choices(WORDS, k=6))

    head = f"--- {chance.choice(WORDS)}\n+++ {chance.choice(WORDS)}\n"
    return head + _lines(size, line)
