"""Which failure is told, of all that the pods of a model have. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from penstock_operator.localmodel.references import References
from penstock_operator.seen import Seen, is_over
from penstock_operator.status.failures import Failure, failures
from penstock_operator.status.missing import by_field, is_absent
from penstock_operator.status.stuck import BINDS_WITHIN_S, not_made, not_started


def worst(name: str, names: References, seen: Seen) -> Failure | None:
    """A fetcher's, then a server's, then a gateway's; *name* is the model's, *names* what its spec names."""
    # Pods that ended for good come last: others have taken their place.
    pods = sorted(seen.pods, key=is_over)
    seen = replace(seen, pods=tuple(pods))
    servers = [
        one
        for one in failures("server", seen.pods_of("server"))
        if is_absent(one, names) or not _may_pass(one, seen.now)
    ]
    inits = {
        str(one.get("name"))
        for pod in seen.pods_of("server")
        for one in (pod.get("status") or {}).get("initContainerStatuses") or ()
    }
    for one in servers:
        if one.container and one.container in inits:
            return by_field(replace(one, component="weights"), names)
    for one in [
        *failures("weights", seen.pods_of("weights")),
        *servers,
        *not_started("server", seen.pods_of("server"), seen.events, seen.now),
        *not_made("server", seen.child("Deployment", f"{name}-server")),
        *failures("gateway", seen.pods_of("gateway")),
        *not_started("gateway", seen.pods_of("gateway"), seen.events, seen.now),
        *not_made("gateway", seen.child("Deployment", name)),
    ]:
        return by_field(one, names)
    return None


def _may_pass(failure: Failure, now: str) -> bool:
    """A volume that is made on demand takes a while: until then the scheduler calls its claim unbound."""
    if failure.reason != "CacheUnbindable" or not failure.at:
        return False
    age = datetime.fromisoformat(now) - datetime.fromisoformat(failure.at)
    return age.total_seconds() < BINDS_WITHIN_S
