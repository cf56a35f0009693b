"""
kopf as the shell: it watches and tells; each handler puts a LocalModel's key into the queue and does nothing else.

Only `on.event` is used: no finalizers, no annotations on users' objects, nothing that is lost at a restart. kopf's
defaults give up a watch after a minute of 503 answers; `Backoff` never does, and `watchers_live` lets the kubelet
restart a process whose watcher died all the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from penstock_operator.cache import Cache
from penstock_operator.cluster import RESOURCES
from penstock_operator.seen import Key

WATCHED = (
    "LocalModel", "Deployment", "Service", "ConfigMap", "PersistentVolumeClaim",
    "PodDisruptionBudget", "NetworkPolicy", "Pod",
)  # fmt: skip


class Backoff:
    """Waits between attempts of kopf: without an end, spread by chance."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0, 4.0, 8.0)
        while True:
            yield 10.0 + random.uniform(0.0, 10.0)


def registry(
    cache: Cache, add: Callable[[Key], None], *, one_namespace: bool
) -> kopf.OperatorRegistry:
    """Handlers of one operator, in a registry of its own: kopf's default one is shared by the process."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.networking.error_backoffs = Backoff()
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        settings.watching.server_timeout = 270
        settings.watching.client_timeout = 300
        settings.watching.reconnect_backoff = 1.0
        settings.scanning.disabled = one_namespace  # else it waits a minute for rights it lacks
        settings.peering.standalone = True
        settings.posting.enabled = False  # Events are ours
        settings.process.ultimate_exiting_timeout = 25
        settings.execution.max_workers = 2
        for kind in WATCHED[1:]:
            resource = RESOURCES[kind]
            settings.watching.label_selectors[resource.group, resource.plural] = (
                "app.kubernetes.io/managed-by=penstock"
            )

    @kopf.on.login(registry=handlers)
    async def login(**about: Any) -> kopf.ConnectionInfo | None:
        # A private registry has no login of its own; the order is that of `Cluster.connect`.
        return kopf.login_with_service_account(**about) or kopf.login_with_kubeconfig(**about)

    async def heard(event: Any, **_: Any) -> None:
        body = event["object"]
        key = cache.heard(body, deleted=event["type"] == "DELETED")
        if key is not None:
            add(key)

    for kind in WATCHED:
        resource = RESOURCES[kind]
        kopf.on.event(
            resource.group, resource.version, resource.plural, registry=handlers, id=f"heard {kind}"
        )(heard)

    @kopf.on.probe(registry=handlers, id="watchers")
    async def watchers(**_: Any) -> int:
        live = watchers_live()
        if live < len(WATCHED):
            raise kopf.PermanentError(f"Only {live} of {len(WATCHED)} watches live.")
        return live

    return handlers


def watchers_live() -> int:
    """How many of kopf's watchers run in this loop."""
    return sum(
        task.get_name().startswith("watcher for ") and not task.done()
        for task in asyncio.all_tasks()
    )
