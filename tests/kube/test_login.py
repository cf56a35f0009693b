"""As in a pod: the account's own address, authority and token, and a token that the kubelet has rotated."""

from __future__ import annotations

import asyncio
import datetime
import types
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes.aio.config import incluster_config

import kube_parts
from operators import rules
from penstock_operator.api.cluster import ApiRefused, Cluster
from penstock_operator.api.permissions import PERMISSIONS

pytestmark = pytest.mark.real


class Clock(datetime.datetime):
    """Its `now` goes when it is told to."""

    late = datetime.timedelta()

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
        return super().now(tz) + cls.late


def test_in_a_pod_the_token_is_read_again_when_it_was_rotated(
    cluster: kube_parts.ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts stand for an old and a new token: both clients, ours and kopf's, go on with the new one."""
    namespace = cluster.namespace()
    for name in ("old", "new"):
        cluster.kubectl("create", "serviceaccount", name, "-n", namespace)
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "operator", "namespace": namespace}, "rules": rules(PERMISSIONS),
    }  # fmt: skip
    cluster.apply(role)
    for name in ("old", "new"):
        cluster.kubectl("create", "rolebinding", name, "-n", namespace, "--role=operator", f"--serviceaccount={namespace}:{name}")  # fmt: skip
    token, place = tmp_path / "token", urlsplit(cluster.url)

    def rotate(name: str) -> str:
        said = cluster.kubectl("create", "token", name, "-n", namespace).strip()
        token.write_text(said)
        return said

    old = rotate("old")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(place.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(place.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(
        incluster_config, "SERVICE_CERT_FILENAME", str(cluster.folder / "pki" / "apiserver.crt")
    )
    clock = types.SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta)
    monkeypatch.setattr(incluster_config, "datetime", clock)

    async def scene() -> None:
        inside = await Cluster.connect()
        try:

            async def listed() -> int:
                return len([one async for one in inside.each("ConfigMap", namespace)])

            assert await listed() == 1
            assert (await inside.access()).token == old
            cluster.kubectl("delete", "serviceaccount", "old", "-n", namespace)
            new = rotate("new")
            status = 0
            for _ in range(200):  # the API server knows a token for some seconds
                try:
                    await listed()
                except ApiRefused as exc:
                    status = exc.status
                    break
                await asyncio.sleep(0.1)
            assert status == 401
            Clock.late = datetime.timedelta(minutes=2)
            assert await listed() == 1
            way = await inside.access()
            assert (way.url, way.token) == (cluster.url, new)
        finally:
            await inside.close()

    asyncio.run(scene())


def test_outside_the_kubeconfig_is_taken(
    cluster: kube_parts.ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an account of a pod, the user's own file; a proxy of the environment is asked for once, at the start."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def way() -> tuple[str, str | None]:
        outside = await Cluster.connect(str(cluster.kubeconfig))
        try:
            found = await outside.access()
            return found.url, found.proxy
        finally:
            await outside.close()

    assert asyncio.run(way()) == (cluster.url, None)
    monkeypatch.setenv("no_proxy", "")
    assert asyncio.run(way()) == (cluster.url, "http://proxy.example.com:3128")
