"""Which objects of the namespace a spec names, and in which field: so that one that is missing is told by its field. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from penstock_operator.localmodel.parsing import LocalModel


class Reference(NamedTuple):
    """An object that the spec names, and the key of it that is needed; empty when all are."""

    kind: str
    name: str
    field: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class References:
    """
    Attributes:
        named: by the spec.
        claim: the one that is made for the weights; empty when there is none.
    """

    named: tuple[Reference, ...] = ()
    claim: str = ""

    def fields(self, kind: str, name: str) -> str:
        """Where the spec names it; empty when it does not."""
        found = [one.field for one in self.named if (one.kind, one.name) == (kind, name)]
        return " and ".join(dict.fromkeys(found))


def references(model: LocalModel, *, claim: str) -> References:
    """All that the pods of *model* cannot start without; *claim* is the one that is made for it, if any."""
    return References(tuple(_named(model)), claim)


def _named(model: LocalModel) -> Iterator[Reference]:
    asked, runtime = model.spec.model, model.spec.runtime
    keys = model.spec.gateway.keys_secret_ref
    if keys is not None:
        yield Reference("Secret", keys.name, "spec.gateway.keysSecretRef")
    api_key = runtime.external.api_key_secret_ref if runtime.external is not None else None
    if api_key is not None:
        at = "spec.runtime.external.apiKeySecretRef"
        yield Reference("Secret", api_key.name, at, api_key.key)
    if asked.credentials_secret_ref is not None:
        at = "spec.model.credentialsSecretRef"
        yield Reference("Secret", asked.credentials_secret_ref.name, at, "token")
    if asked.ca_config_map_ref is not None:
        ref = asked.ca_config_map_ref
        yield Reference("ConfigMap", ref.name, "spec.model.caConfigMapRef", ref.key)
    for place, one in enumerate(runtime.env):
        if one.secret_key_ref is not None:
            at = f"spec.runtime.env[{place}].secretKeyRef"
            yield Reference("Secret", one.secret_key_ref.name, at, one.secret_key_ref.key)
    scheme, _, rest = (asked.uri or "").partition("://")
    if scheme == "pvc":
        yield Reference("PersistentVolumeClaim", rest.partition("/")[0], "spec.model.uri")
    elif model.spec.cache.claim_name is not None:
        yield Reference(
            "PersistentVolumeClaim", model.spec.cache.claim_name, "spec.cache.claimName"
        )
