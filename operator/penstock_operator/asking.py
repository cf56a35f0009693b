"""
Asks the gateways of a model for their own status, by the address of their pods: what the engine really got stands there.

A gateway that cannot be asked is no failure of the model (the operator may run outside of the cluster); why not is
said in its `problem`. Pods are asked at a time, each within a short time, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from penstock.client import Client
from penstock.errors import PenstockError
from penstock_operator.failures import is_ready
from penstock_operator.localmodel.names import COMPONENT, GATEWAY
from penstock_operator.seen import GatewayStatus, Key, Manifest

PORT = 8080
WITHIN_S = 2.0


async def ask(
    key: Key, pods: tuple[Manifest, ...], token: str, *, port: int = PORT
) -> Mapping[str, GatewayStatus]:
    """By pod name, of the gateways that are ready."""
    addresses: dict[str, str] = {}
    for pod in pods:
        about, address = pod["metadata"], (pod.get("status") or {}).get("podIP")
        if (about.get("labels") or {}).get(COMPONENT) == GATEWAY and address and is_ready(pod):
            addresses[str(about["name"])] = str(address)
    found = await asyncio.gather(
        *(asyncio.to_thread(_one, pod, at, token, port) for pod, at in addresses.items())
    )
    return {one.pod: one for one in found}


def _one(pod: str, address: str, token: str, port: int) -> GatewayStatus:
    host = f"[{address}]" if ":" in address else address
    try:
        with Client(f"http://{host}:{port}", token=token, timeout_s=WITHIN_S) as client:
            status: dict[str, Any] = client.status()
    except (PenstockError, httpx.HTTPError, ValueError) as exc:
        return GatewayStatus(pod, None, f"The gateway {pod} could not be asked: {exc}")
    return GatewayStatus(pod, status)
