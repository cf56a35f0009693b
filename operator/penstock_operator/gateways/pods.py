"""
Speaks with the gateways of a model, each pod by itself: asks for its status (what the engine really got stands there),
has it hold requests, and lets them go on.

A gateway that cannot be reached is no failure of the model; why not is said in its `problem`. Pods are asked at a
time, each within a short time, and redirects are not followed. The way to a pod is its own address in a cluster, and
from outside the API server's pod proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from penstock.client import Client
from penstock.errors import PenstockError
from penstock_operator.gateways.rollout import LEASE_S, UPSTREAM, Work
from penstock_operator.localmodel.names import COMPONENT, GATEWAY, PORT
from penstock_operator.seen import GatewayStatus, Key, Manifest, is_ready

WITHIN_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """
    How a pod is reached.

    Attributes:
        url: that leads to its root.
        headers: for what stands between.
        verify: whom `https` is believed.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    verify: ssl.SSLContext | bool = True


WayTo = Callable[[Manifest], Awaitable[Way]]


def directly(port: int = PORT) -> WayTo:
    """By the pod's own address: for an operator in the cluster."""

    async def way(pod: Manifest) -> Way:
        address = str(pod["status"]["podIP"])
        host = f"[{address}]" if ":" in address else address
        return Way(f"http://{host}:{port}")

    return way


class Gateways:
    """
    Args:
        way_to: how a pod is reached.
    """

    def __init__(self, way_to: WayTo) -> None:
        self._way_to = way_to

    async def ask(
        self, key: Key, pods: Iterable[Manifest], token: str
    ) -> Mapping[str, GatewayStatus]:
        """Their status by pod name, of those that are ready."""

        def one(pod: str, client: Client) -> GatewayStatus:
            return GatewayStatus(pod, client.status())

        def failed(pod: str, why: str) -> GatewayStatus:
            return GatewayStatus(pod, None, f"The gateway {pod} could not be asked: {why}")

        return await self._each(pods, token, one, failed)

    async def hold(self, key: Key, pods: Iterable[Manifest], token: str) -> Mapping[str, Work]:
        """Have those that are ready hold new requests, or go on holding them. Returns what still runs, by pod name."""

        def one(pod: str, client: Client) -> Work:
            told = list(client.drain(UPSTREAM, hold=True, wait=False, release_s=LEASE_S))
            return Work(told[-1].running)

        def failed(pod: str, why: str) -> Work:
            return Work(problem=f"The gateway {pod} could not be asked to hold requests: {why}")

        return await self._each(pods, token, one, failed)

    async def resume(self, key: Key, pods: Iterable[Manifest], token: str) -> Mapping[str, str]:
        """Let held requests go on. Returns why not, by pod name; empty where they do."""

        def one(pod: str, client: Client) -> str:
            client.resume(UPSTREAM, wait_s=0.0, keep_pause=True)
            return ""

        def failed(pod: str, why: str) -> str:
            return f"The gateway {pod} could not be asked to go on: {why}"

        return await self._each(pods, token, one, failed)

    async def _each(
        self,
        pods: Iterable[Manifest],
        token: str,
        one: Callable[[str, Client], T],
        failed: Callable[[str, str], T],
    ) -> dict[str, T]:
        chosen = {str(pod["metadata"]["name"]): pod for pod in pods if _can_be_asked(pod)}

        def speak(name: str, way: Way) -> T:
            try:
                with Client(
                    way.url,
                    token=token,
                    timeout_s=WITHIN_S,
                    headers=way.headers,
                    verify=way.verify,
                ) as client:
                    return one(name, client)
            except (PenstockError, ValueError, LookupError, TypeError, AssertionError) as exc:
                # What is no gateway of ours may answer anything.
                return failed(name, str(exc) or type(exc).__name__)

        async def told(name: str, pod: Manifest) -> T:
            try:
                way = await self._way_to(pod)
            except PenstockError as exc:
                return failed(name, str(exc))
            return await asyncio.to_thread(speak, name, way)

        found: list[Any] = await asyncio.gather(*(told(name, pod) for name, pod in chosen.items()))
        return dict(zip(chosen, found, strict=True))


def _can_be_asked(pod: Manifest) -> bool:
    labels = pod["metadata"].get("labels") or {}
    has_address = bool((pod.get("status") or {}).get("podIP"))
    return labels.get(COMPONENT) == GATEWAY and has_address and is_ready(pod)
