"""
Whether the API server lets us do what we will do, asked before anything else: a missing right is then named, with
the verb and the place, instead of a watch that is refused for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock_operator.cluster import Cluster

# Everything the code calls; the chart's Role is checked against this.
NEEDED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LocalModel", ("get", "list", "watch")),
    ("LocalModel/status", ("patch",)),
    ("Deployment", ("list", "watch", "create", "patch", "delete")),
    ("Service", ("list", "watch", "create", "patch", "delete")),
    ("ConfigMap", ("list", "watch", "create", "patch", "delete")),
    ("PersistentVolumeClaim", ("list", "watch", "create", "patch")),
    ("PodDisruptionBudget", ("list", "watch", "create", "patch", "delete")),
    ("NetworkPolicy", ("list", "watch", "create", "patch", "delete")),
    ("Pod", ("list", "watch")),
    ("Secret", ("create", "patch")),
    ("Event", ("create",)),
)
LEASE = ("get", "create", "update")


async def missing(
    cluster: Cluster, namespaces: Sequence[str | None], lease_namespace: str
) -> list[str]:
    """
    A sentence for each right that is missing.

    Args:
        namespaces: that are watched; `[None]` for all.
    """
    asked = [
        (verb, kind, namespace)
        for namespace in namespaces
        for kind, verbs in NEEDED
        for verb in verbs
    ]
    asked += [(verb, "Lease", lease_namespace) for verb in LEASE]
    answers = await asyncio.gather(*(cluster.allowed(*one) for one in asked))
    return [
        f"The operator may not {verb} {kind} in {namespace or 'all namespaces'}: "
        "add it to its Role (the chart's RBAC has it)."
        for (verb, kind, namespace), allowed in zip(asked, answers, strict=True)
        if not allowed
    ]
