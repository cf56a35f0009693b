"""
kopf as the shell: it watches and tells; the handler passes on what it is told and does nothing else.

Only `on.event` is used: no finalizers, no annotations on users' objects, nothing that is lost at a restart. kopf's
defaults give up a watch after a minute of 503 answers; `Backoff` never does. What kopf keeps for handlers of other
kinds (what changed, how far a handler came) costs a copy of each object, so its stores are empty ones here.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf

from penstock_operator.api.cluster import Access
from penstock_operator.api.resources import RESOURCES, WATCHED
from penstock_operator.localmodel.names import OURS

Tell = Callable[[str | None, Mapping[str, Any]], None]
"""Is told the type of an event (None: part of a listing) and the object."""


class Backoff:
    """Waits between attempts: without an end, spread by chance."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0, 4.0, 8.0)
        while True:
            yield 10.0 + random.uniform(0.0, 10.0)


class _NoDiffs(kopf.DiffBaseStorage):
    """Nothing is compared: every event counts."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Handlers end at once."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def registry(tell: Tell, access: Callable[[], Awaitable[Access]]) -> kopf.OperatorRegistry:
    """
    Handlers of one operator, in a registry of its own: kopf's default one is shared by the process.

    Args:
        access: how to reach the API server; asked again when the credentials no longer hold.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.networking.error_backoffs = Backoff()
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        settings.watching.server_timeout = 270
        settings.watching.client_timeout = 300
        settings.watching.reconnect_backoff = 1.0
        settings.watching.chunk_size = 25
        settings.queueing.idle_timeout = 0.1  # a task for each object lives so long after its event
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.persistence.progress_storage = _NoProgress()
        # It would list every definition in the cluster; ours are known, and `Watches` sees to their coming and going.
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.posting.enabled = False  # Events are ours
        settings.process.ultimate_exiting_timeout = None  # kopf would kill the whole process
        settings.execution.max_workers = 1
        for kind in WATCHED[1:]:
            resource = RESOURCES[kind]
            settings.watching.label_selectors[resource.group, resource.plural] = OURS

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        # kopf's own ways in know neither commands that fetch a token nor a pod without DNS.
        way = await access()
        return kopf.ConnectionInfo(
            server=way.url,
            ca_path=way.authority,
            certificate_path=way.certificate,
            private_key_path=way.private_key,
            token=way.token,
            insecure=None if way.verifies else True,
            proxy_url=way.proxy,
        )

    async def heard(event: Any, **_: Any) -> None:
        tell(event["type"], event["object"])

    for kind in WATCHED:
        resource = RESOURCES[kind]
        kopf.on.event(
            resource.group, resource.version, resource.plural, registry=handlers, id=f"heard {kind}"
        )(heard)

    return handlers
