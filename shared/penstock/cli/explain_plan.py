"""The part of `penstock explain` that tells what becomes of a conversation, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from penstock import tokens
from penstock.cli.output import table
from penstock.compress import DoesNotFit
from penstock.dialects.openai.request import validate
from penstock.domain.profile import ModelProfile
from penstock.domain.strategy import Strategy
from penstock.gateway.conversations.fitting import (
    FitTask,
    Prepared,
    cannot_fit,
    choose_strategy,
    fit,
    prepared_by,
)
from penstock.gateway.steps.shape import shape
from penstock.servers import spec
from penstock.settings import Settings


def prepare_dry(
    body: Mapping[str, Any],
    profile: ModelProfile,
    settings: Settings,
    strategy: str | None,
    url: str | None,
) -> Prepared:
    """
    Fit the conversation of *body* as the gateway would on its first sight of it.

    Args:
        strategy: in place of what the settings say.
        url: a server that is asked for counts, where its kind can count; estimated otherwise.

    Raises:
        RequestError: it would be refused.
    """
    validate(body)
    messages, changes = shape(body, profile, settings.context.nonce_patterns)
    scale = _scale(profile, body, messages, url)
    weighed = scale.weigh(messages)
    task = FitTask(
        messages=messages,
        weights=weighed.tokens,
        fixed=scale.weigh_tools(body)[0] + scale.overhead.base,
        window=profile.window.tokens,
        strategy=choose_strategy(
            asked=Strategy(strategy) if strategy else None,
            model=profile.model,
            user_agent="",
            options=settings.context,
        ),
        options=settings.context,
        weigh=lambda message: scale.weigh_one(message)[0],
        told=True,
    )
    try:
        plan = fit(task)
    except DoesNotFit as exc:
        raise cannot_fit(exc, task) from exc
    return prepared_by(task, plan, None, counted=scale.exact).after(changes)


def _scale(
    profile: ModelProfile, body: Mapping[str, Any], messages: Any, url: str | None
) -> tokens.Scale:
    """Counts by the server at *url*, where there is one that counts; else the frozen measure."""
    from penstock.adapters import probe
    from penstock.domain.upstream import Upstream
    from penstock.gateway.conversations.counts import count_messages, counts_exactly, measure_model

    family = tokens.family_of(profile.model)
    server = spec(profile.kind)
    if url is None or not counts_exactly(server):
        return tokens.Scale(exact=False, family=family)
    scale = tokens.Scale(exact=True, family=family)

    async def ask() -> bool:
        upstream = Upstream("explained", url)
        async with probe.make_client(upstream) as client:
            await measure_model(scale, upstream, server, profile.model, client)
            return await count_messages(
                scale,
                messages,
                body if body.get("tools") else None,
                upstream,
                server,
                profile.model,
                client,
            )

    if asyncio.run(ask()):
        return scale
    return tokens.Scale(exact=False, family=family)


def explained_plan(prepared: Prepared) -> dict[str, Any]:
    """The plan as JSON: totals, and each message's fate."""
    task, plan = prepared.task, prepared.plan
    assert task is not None
    assert plan is not None
    return {
        "strategy": task.strategy.value,
        "fitted": bool(prepared.strategy),
        "counted": bool(prepared.certain_tokens),
        "tokens": prepared.tokens,
        "original_tokens": prepared.original_tokens,
        "fixed_tokens": task.fixed,
        "messages": [
            {
                "place": place,
                "role": str(message.get("role")),
                "fate": fate.kind.value,
                "tokens_before": fate.before,
                "tokens_after": fate.after,
                "why": fate.reason,
            }
            for place, (message, fate) in enumerate(
                zip(task.messages, plan.fates(task.weights), strict=True)
            )
        ],
    }


_COLOURS = {"kept": None, "shortened": "yellow", "dropped": "red", "merged": "cyan"}
_MOST_ROWS = 60


def print_plan(prepared: Prepared) -> None:
    """The plan for people, turn by turn; neighbours with one fate share a line when there are many."""
    from rich.text import Text

    value = explained_plan(prepared)
    how = "counted by the server" if value["counted"] else "estimated"
    click.echo(
        f"{value['original_tokens']} tokens ({how}, {value['fixed_tokens']} of them tools and template)"
        + (
            f"; {value['tokens']} are sent, strategy {value['strategy']}."
            if value["fitted"]
            else "; all are sent."
        )
    )
    rows = []
    for group in _groups(value["messages"], grouped=len(value["messages"]) > _MOST_ROWS):
        first, last = group[0], group[-1]
        place = str(first["place"]) if first is last else f"{first['place']}-{last['place']}"
        roles = first["role"] if first is last else f"{len(group)} messages"
        rows.append(
            (
                place,
                first["turn"],
                roles,
                Text(first["fate"], style=_COLOURS.get(first["fate"]) or ""),
                sum(row["tokens_before"] for row in group),
                sum(row["tokens_after"] for row in group),
                first["why"],
            )
        )
    table(("message", "turn", "role", "fate", "tokens", "sent", "why"), rows)


def _groups(messages: list[dict[str, Any]], *, grouped: bool) -> list[list[dict[str, Any]]]:
    groups: list[list[dict[str, Any]]] = []
    turn = 0
    for message in messages:
        turn += message["role"] == "user"
        row = {**message, "turn": turn}
        same = groups and all(groups[-1][0][name] == row[name] for name in ("fate", "why"))
        if grouped and same:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
