"""
Messages that the model's chat template can take (behaviours D4 and D5).

Decided by what the template is known to take (`TemplateRules`: read from the template, or learned from a
refusal). What is not known to be a problem is left alone. Rules hold for each message where it stands:
moving a late system message to the front would change the prefix and cost the server's cache.

Laws: deterministic; idempotent; messages that need nothing come back as the identical object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from penstock.domain.change import Change
from penstock.domain.profile import TemplateRules

_SYSTEM_MARK = "[System instruction]\n"
_MERGE_JOINT = "\n\n"
_LEARNED: tuple[tuple[re.Pattern[str], dict[str, bool]], ...] = (
    (re.compile(r"system message must be (?:at the beginning|the first)", re.IGNORECASE), {"late_system": False}),
    (re.compile(r"system role (?:is )?not supported", re.IGNORECASE), {"system_role": False}),
    (
        re.compile(r"roles? must alternate", re.IGNORECASE),
        {"same_role_neighbours": False, "late_system": False},
    ),
    (re.compile(r"(?:unexpected|unknown|invalid|unsupported) (?:message )?role:? '?developer", re.IGNORECASE),
     {"developer_role": False}),
)  # fmt: skip


class Validated(NamedTuple):
    """Messages that the template takes, and what was changed to get there."""

    messages: Sequence[Mapping[str, Any]]
    changes: tuple[Change, ...] = ()


def learn(rules: TemplateRules, refusal: str) -> TemplateRules:
    """What a server's refusal says about its template, added to what is known."""
    for pattern, facts in _LEARNED:
        if pattern.search(refusal):
            rules = replace(rules, **facts)
    return rules


def make_valid(messages: Sequence[Mapping[str, Any]], rules: TemplateRules) -> Validated:
    """
    Make *messages* valid for a template.

    `developer` becomes `system` unless the template renders it; a system message that the template does
    not take there becomes marked user text in place; neighbours of one role are merged where it insists
    on alternation.
    """
    out: list[Mapping[str, Any]] = []
    changes: list[Change] = []
    for place, message in enumerate(messages):
        role = message.get("role")
        if role == "developer" and rules.developer_role is not True:
            message = {**message, "role": "system"}
            role = "system"
            changes.append(_changed(place, "role", "developer is called system there"))
        if role == "system" and (
            rules.system_role is False or (rules.late_system is False and out)
        ):
            message = {**message, "role": "user", "content": _marked(message.get("content"))}
            changes.append(
                _changed(
                    place, "role", "the template takes no system message there: marked user text"
                )
            )
        out.append(message)
    if rules.same_role_neighbours is False:
        out = _merged(out, changes)
    if not changes:
        return Validated(messages)
    return Validated(out, tuple(changes))


def _changed(place: int, field: str, detail: str) -> Change:
    return Change("template", f"messages[{place}].{field}", "rewritten", detail)


def _marked(content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": _SYSTEM_MARK}, *content]
    return _SYSTEM_MARK + (content if isinstance(content, str) else "")


def _merged(messages: list[Mapping[str, Any]], changes: list[Change]) -> list[Mapping[str, Any]]:
    """Neighbours of one role become one message, each run of them at once."""
    out: list[Mapping[str, Any]] = []
    start = 0
    while start < len(messages):
        end = start + 1
        while end < len(messages) and _can_merge(messages[start], messages[end]):
            end += 1
        run = messages[start:end]
        if len(run) == 1:
            out.append(run[0])
        else:
            out.append({**run[0], "content": _joined([m.get("content") for m in run])})
            told = f"merged with {len(run) - 1} neighbours of the same role"
            changes.append(_changed(start, "content", told))
        start = end
    return out


def _can_merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Only plain messages: calls, names, thinking and whatever else a message carries are not joined."""
    if before.get("role") != after.get("role") or before.get("role") not in ("user", "assistant"):
        return False
    return before.keys() <= _PLAIN and after.keys() <= _PLAIN


_PLAIN = frozenset({"role", "content"})


def _joined(contents: list[Any]) -> Any:
    if any(isinstance(content, list) for content in contents):
        return [part for content in contents for part in _parts(content)]
    return _MERGE_JOINT.join([text for text in contents if text])


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


# Names under which returned thinking travels in an assistant message.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


def rename_reasoning(messages: Sequence[Mapping[str, Any]], wanted: str) -> Validated:
    """
    Give thinking in assistant messages the name that the server reads.

    Args:
        wanted: one of `reasoning_content`, `reasoning`, `thinking`.
    """
    out: list[Mapping[str, Any]] | None = None
    changes: list[Change] = []
    for place, message in enumerate(messages):
        if message.get("role") != "assistant" or message.get(wanted):
            continue
        found = next(
            (f for f in _REASONING_FIELDS if f != wanted and isinstance(message.get(f), str)), None
        )
        if found is None or not message[found]:
            continue
        if out is None:
            out = list(messages)
        out[place] = {**{k: v for k, v in message.items() if k != found}, wanted: message[found]}
        changes.append(_changed(place, found, f"{found} is called {wanted} there"))
    return Validated(messages if out is None else out, tuple(changes))
