"""
Whether the API server lets us do what we will do, asked before anything else: a missing right is then named, with
the verb and the place, instead of a watch that is refused for ever. What is asked for is the table of `permissions`,
which the chart's roles are held against, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock_operator.api.cluster import Cluster
from penstock_operator.api.permissions import PERMISSIONS, Permission

_AT_A_TIME = 10  # many namespaces are hundreds of questions


async def missing(
    cluster: Cluster, namespaces: Sequence[str], lease_namespace: str, *, outside: bool = False
) -> list[str]:
    """
    A sentence for each right that is missing.

    Args:
        namespaces: that are watched; empty for all.
        outside: the operator runs outside the cluster.
    """
    asked = [
        (row, verb, place)
        for row in PERMISSIONS
        if not row.optional and (outside or row.scope != "outside")
        for place in _places(row, namespaces, lease_namespace)
        for verb in row.verbs
    ]
    at_a_time = asyncio.Semaphore(_AT_A_TIME)

    async def ask(row: Permission, verb: str, place: str | None) -> bool:
        async with at_a_time:
            return await cluster.allowed(verb, row.group, row.resource, place)

    answers = await asyncio.gather(*(ask(*one) for one in asked))
    return [
        f"The operator may not {verb} {row.resource}{f'.{row.group}' if row.group else ''} in "
        f"{f'the namespace {place}' if place else 'all namespaces'}, which it needs for this: {row.why}."
        + (" The chart's roles have it." if row.scope != "outside" else "")
        for (row, verb, place), allowed in zip(asked, answers, strict=True)
        if not allowed
    ]


def _places(row: Permission, namespaces: Sequence[str], own: str) -> Sequence[str | None]:
    """Where a row must hold; None is everywhere."""
    if row.scope == "own":
        return (own,)
    return tuple(namespaces) or (None,)
