"""
Reads and writes on the API server, through the official client's asyncio part (`kubernetes.aio`).

The client gives authentication, TLS and the connection; objects stay plain dicts, because its generated models drop
fields that they do not know. Children are written by server-side apply under our field manager, so what others own
(replicas of an autoscaler, injected fields) stays theirs. Every write asks `may_write` directly before it is sent, and
carries the version that the decision was made from where there is one: a leader that was paused does no harm.
Answers about Secrets are asked for as metadata only; their data is never read.
Source: kubernetes.io, reference/using-api/server-side-apply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from penstock.errors import PenstockError
from penstock_operator.api.conflicts import Conflict, conflicts
from penstock_operator.api.resources import RESOURCES
from penstock_operator.gateways.pods import Way
from penstock_operator.seen import Manifest

FIELD_MANAGER = "penstock"
ABSENT = "1"
"""
As a version to write from: nothing is there. An apply with it makes an object or is refused (409), and changes none:
etcd's empty store is its revision 1, so no object has it.
Source: k8s.io/apiserver pkg/registry/generic/registry/store.go, Update.
"""
_LOOKS = "penstock-looks"  # owns nothing, ever
_PAGE = 25
_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class ApiRefused(PenstockError):
    """The API server said no. `status` is its HTTP status, `reason` its own word, `said` its own sentence."""

    def __init__(self, message: str, status: int, reason: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said or message
        self.status = status
        self.reason = reason


class FieldConflict(ApiRefused):
    """Fields of an apply are owned by others."""

    def __init__(self, message: str, found: list[Conflict]) -> None:
        super().__init__(message, 409, "FieldConflict")
        self.found = found


class NameTaken(ApiRefused):
    """An object of that name is there and is not ours."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 409, "NameTaken")


class NotLeading(PenstockError):
    """A write was not sent: another replica leads, or may."""


@dataclass(frozen=True, slots=True)
class Access:
    """
    How the API server is reached, for another client; what is not needed is None.

    Attributes:
        authority, certificate, private_key: paths.
        token: that of now, it may be rotated.
    """

    url: str
    authority: str | None
    certificate: str | None
    private_key: str | None
    token: str | None
    verifies: bool
    proxy: str | None


class Cluster:
    """
    Args:
        api: the connected client.
        may_write: whether this replica leads now.
        timeout_s: of one call; shorter than the time between a leader's renew deadline and its successor.
        inside: we run in a pod of the cluster, so that pods' addresses lead to them.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        may_write: Callable[[], bool] = lambda: True,
        timeout_s: float = 3.5,
        inside: bool = False,
    ) -> None:
        self._api = api
        self.inside = inside
        self.may_write = may_write
        self._timeout_s = timeout_s
        self.calls = 0

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Cluster:
        """By *kubeconfig*; None takes the pod's own service account, else the user's kubeconfig."""
        settings = Configuration()
        inside = False
        if kubeconfig is None:
            try:
                config.load_incluster_config(settings)
                inside = True
            except config.ConfigException:
                await config.load_kube_config(client_configuration=settings)
        else:
            await config.load_kube_config(kubeconfig, client_configuration=settings)
        # By itself the session asks the environment for a proxy and a password before each call, in a thread.
        settings.proxy = settings.proxy or _proxy(str(settings.host))
        settings.client_session_kwargs = {"trust_env": False, "json_serialize": _json}
        return cls(ApiClient(settings), inside=inside)

    async def access(self) -> Access:
        """The way that it goes itself, with what authenticates it now."""
        settings = self._api.configuration
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "/", "GET", None)
        said = next(
            (value for name, value in headers.items() if name.lower() == "authorization"), ""
        )
        return Access(
            url=str(settings.host),
            authority=settings.ssl_ca_cert,
            certificate=settings.cert_file,
            private_key=settings.key_file,
            token=said.partition(" ")[2].strip() or None,
            verifies=bool(settings.verify_ssl),
            proxy=settings.proxy,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """That object, or None."""
        try:
            return await self._read(RESOURCES[kind].path(namespace, name), kind)
        except ApiRefused as exc:
            if exc.status == 404:
                return None
            raise

    async def each(
        self, kind: str, namespace: str | None, labels: str = ""
    ) -> AsyncIterator[Manifest]:
        """All objects of *kind* there that carry *labels*, in pages: a thousand Deployments at once are much memory."""
        query = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = labels
        while True:
            found = await self._read(RESOURCES[kind].path(namespace), kind, query)
            for one in found.get("items") or ():
                yield one
            more = str((found.get("metadata") or {}).get("continue") or "")
            if not more:
                return
            query["continue"] = more

    async def found(self, kind: str, namespace: str, **fields: str) -> list[Manifest]:
        """Those whose fields are so (a dot is written `__`); some, where they are many. Asks for `list` only."""
        chosen = ",".join(f"{name.replace('__', '.')}={value}" for name, value in fields.items())
        query = {"fieldSelector": chosen, "limit": str(_PAGE)}
        answer = await self._read(RESOURCES[kind].path(namespace), kind, query)
        return list(answer.get("items") or ())

    async def serves(self, kind: str) -> bool:
        """Whether the API server knows *kind*: an optional CRD may come later."""
        resource = RESOURCES[kind]
        try:
            found = await self._call("GET", f"/apis/{resource.group}/{resource.version}")
        except ApiRefused as exc:
            if exc.status == 404:
                return False
            raise
        return any(one.get("name") == resource.plural for one in found.get("resources") or ())

    async def apply(
        self,
        manifest: Manifest,
        *,
        version: str | None = None,
        uid: str | None = None,
        force: bool = False,
    ) -> Manifest:
        """
        Server-side apply: what stands in *manifest* is ours, nothing else is touched.

        Args:
            version: the resourceVersion that the decision was made from, or ABSENT; another one refuses it (409).
            uid: the very object that is meant; another one, or none, refuses it (409).
            force: take fields that others own.

        Raises:
            FieldConflict: others own some of the fields.
        """
        metadata = dict(manifest["metadata"])
        if version is not None:
            metadata["resourceVersion"] = version
        if uid is not None:
            metadata["uid"] = uid
        path = RESOURCES[manifest["kind"]].path(metadata.get("namespace"), metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        body = {**manifest, "metadata": metadata}
        return await self._write("PATCH", path, body, query, _APPLY, manifest["kind"])

    async def standing(self, manifest: Manifest) -> Manifest | None:
        """
        What stands under that name, its metadata only, or None.

        A Secret may not be read. An apply that asks for nothing and is not carried out (`dryRun`) is answered by what is
        there, and that answer can be had without the data.
        """
        about = manifest["metadata"]
        kind, namespace, name = str(manifest["kind"]), about["namespace"], about["name"]
        if kind != "Secret":
            return next(iter(await self.found(kind, namespace, metadata__name=name)), None)
        body = {
            "apiVersion": manifest["apiVersion"], "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
        }  # fmt: skip
        query = {"fieldManager": _LOOKS, "dryRun": "All"}
        path = RESOURCES[kind].path(namespace, name)
        answer = await self._call("PATCH", path, body, query, _APPLY, kind=kind)
        # One that is absent is answered by what would be made.
        return answer if answer["metadata"].get("resourceVersion") else None

    async def create(self, kind: str, manifest: Manifest) -> Manifest:
        """Make it; 409 when it is there."""
        path = RESOURCES[kind].path(manifest["metadata"]["namespace"])
        return await self._write("POST", path, manifest, {"fieldManager": FIELD_MANAGER})

    async def replace(self, kind: str, manifest: Manifest, *, fenced: bool = True) -> Manifest:
        """Put it, by the version that stands in it; *fenced* False is for the Lease itself."""
        metadata = manifest["metadata"]
        path = RESOURCES[kind].path(metadata["namespace"], metadata["name"])
        if not fenced:
            return await self._call("PUT", path, manifest)
        return await self._write("PUT", path, manifest)

    async def create_unfenced(self, kind: str, manifest: Manifest) -> Manifest:
        """Make the Lease, or ask for an access review: what a replica may do that does not lead."""
        return await self._call(
            "POST", RESOURCES[kind].path(manifest["metadata"]["namespace"]), manifest
        )

    async def patch_status(
        self, kind: str, namespace: str, name: str, changes: Mapping[str, Any], version: str
    ) -> Manifest:
        """Merge *changes* into its status, if it is still at *version*."""
        body = {"metadata": {"resourceVersion": version}, "status": dict(changes)}
        path = RESOURCES[kind].path(namespace, name, "status")
        return await self._write("PATCH", path, body, {}, "application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete that very object; one that is gone, or another of its name, is left."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._write("DELETE", RESOURCES[kind].path(namespace, name), body)
        except ApiRefused as exc:
            if exc.status not in (404, 409):
                raise

    async def allowed(self, verb: str, group: str, resource: str, namespace: str | None) -> bool:
        """Whether we may do that (SelfSubjectAccessReview); *resource* may name a subresource after a slash."""
        plural, _, part = resource.partition("/")
        attributes = {
            "verb": verb, "group": group, "resource": plural, "subresource": part,
            "namespace": namespace or "",
        }  # fmt: skip
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._call("POST", path, review)
        return bool((answer.get("status") or {}).get("allowed"))

    async def proxied(self, pod: Manifest, port: int) -> Way:
        """The way to a pod through the API server's pod proxy, for who runs outside of the cluster."""
        about = pod["metadata"]
        path = RESOURCES["Pod"].path(about["namespace"], f"{about['name']}:{port}", "proxy")
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        return Way(
            f"{self._api.configuration.host}{path}", headers, self._api.rest_client.ssl_context
        )

    async def _read(self, path: str, kind: str, query: Mapping[str, str] | None = None) -> Manifest:
        return await self._call("GET", path, None, query, kind=kind)

    async def _write(
        self,
        method: str,
        path: str,
        body: Manifest,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        kind: str = "",
    ) -> Manifest:
        if not self.may_write():
            raise NotLeading(f"{method} {path} was not sent: this replica does not lead.")
        return await self._call(method, path, body, query, content_type, kind=kind)

    async def _call(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        *,
        kind: str = "",
    ) -> Manifest:
        accept = _METADATA_ONLY if kind == "Secret" else "application/json"
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._api.configuration.host}{path}"
        if query:
            url += f"?{urlencode(query)}"
        self.calls += 1
        try:
            response = await self._api.call_api(
                method, url, headers, body, _request_timeout=self._timeout_s
            )
            raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ApiRefused(
                f"The API server did not answer {method} {path}: {exc or type(exc).__name__}",
                0,
                "Unreachable",
            ) from exc
        try:
            value = orjson.loads(raw) if raw else {}
        except ValueError:
            value = {}
        if response.status >= 400:
            said = str(value.get("message") or f"status {response.status} without a word")
            message = f"The API server refused {method} {path}: {said}"
            owned = conflicts(value)
            if owned:
                raise FieldConflict(message, owned)
            raise ApiRefused(message, response.status, str(value.get("reason", "")), said)
        assert isinstance(value, dict)
        return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _proxy(url: str) -> str | None:
    """What the environment (HTTPS_PROXY, NO_PROXY) says for that address."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
