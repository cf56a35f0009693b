"""The manifests that a LocalModel asks for: pure, one file per concern."""

from __future__ import annotations

from penstock_operator.desired.access import access
from penstock_operator.desired.gateway import gateway
from penstock_operator.desired.server import server
from penstock_operator.desired.weights import claim, has_claim
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.seen import Manifest, Seen


def desired(model: LocalModel, seen: Seen) -> list[Manifest]:
    """All children, in the order in which they are applied."""
    found: list[Manifest] = []
    if not model.external:
        if has_claim(model):
            found.append(claim(model))
        found += server(model, seen)
    return [*found, *gateway(model, seen), *access(model, seen)]
