"""
What comes next while a server's pod changes, so that no stream breaks: gateways hold new requests, running answers
end, the server is replaced, the gateways go on. Pure.

Level-triggered: a plan follows from what the cluster and the gateways say now and from the step that stands in the
LocalModel's status, so an operator may die between any two steps. What it leaves behind heals by itself: a step is
written down before its first effect, and a hold that is not renewed ends in the gateway after `LEASE_S`.

    1. Waiting     gateways are being replaced themselves; one that goes away still has streams on the old server
    2. Draining    every gateway holds; the old server stays until nothing runs there, or the bound is reached
    3. Replacing   the new template is applied; gateways hold until a new server is ready, or the bound is reached
    4. GivenUp     the hold ended without a new server: requests get what the gateway says of a server that is away
    -  Starting    the same without a hold: nothing ran on the old server, or Kubernetes replaces pods one by one

Every step has a bound: 1 the grace of a gateway pod, 2 `rollout.idleTimeoutSeconds`, 3 `Patience.hold_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from penstock_operator.localmodel.names import GATEWAY, SERVER, TEMPLATE_HASH, children
from penstock_operator.seen import Manifest, Seen, condition, is_ready

Step = Literal["Waiting", "Draining", "Replacing", "Starting", "GivenUp"]

LEASE_S = 60.0
"""A hold ends by itself after so long without an operator; several looks, and a change of leaders, fit in."""
UPSTREAM = "server"
"""What the gateways call the server."""
WORRYING = frozenset({"IdleTimeoutExceeded", "GatewayNotAsked", "RolloutGivenUp"})
"""Reasons of a rollout that somebody may want to hear of."""
_GRACE_S = 120.0
"""What gateways may take to go away, beyond the time of their answers."""
_UNANSWERED_S = 30.0
_DRAIN_AGAIN_S, _RESUME_AGAIN_S, _WAIT_AGAIN_S = 0.5, 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a gateway that holds has to do.

    Attributes:
        running: requests that the server works on for it.
        problem: why it could not be asked to hold, a sentence; empty when it holds.
    """

    running: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long is waited.

    Attributes:
        idle_timeout_s: for running answers, before the server is replaced all the same.
        hold_s: for the new server; one that is not ready by then is not waited for.
        drain_s: as gateways that go away let their answers run.
    """

    idle_timeout_s: float = 300.0
    hold_s: float = 600.0
    drain_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """
    As it stands in `status.rollout`.

    Attributes:
        since: when the step began, RFC 3339.
        template: hash of the pod template that is on its way.
        reason: one word for programs; documented.
        message: a sentence.
    """

    step: Step
    since: str
    template: str
    reason: str
    message: str

    @property
    def goes_on(self) -> bool:
        """It has not been given up."""
        return self.step != "GivenUp"

    def to_dict(self) -> dict[str, Any]:
        """As `status.rollout`; reason and message are those of the condition."""
        return {"step": self.step, "since": self.since, "template": self.template}


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What to do now.

    Attributes:
        rollout: what is told of it; None while there is none.
        keep_server, keep_gateway: its Deployment stays as it is for now.
        hold: ask the gateways to hold (or to go on holding), then plan again with their answers.
        resume: gateways that hold and are to go on, by pod name.
        again_s: look again after so long; None leaves it to others.
    """

    rollout: Rollout | None = None
    keep_server: bool = False
    keep_gateway: bool = False
    hold: bool = False
    resume: frozenset[str] = frozenset()
    again_s: float | None = None

    def keeps(self, name: str, manifest: Manifest) -> bool:
        """Whether *manifest*, of the model *name*, is not to be written now."""
        if manifest["kind"] != "Deployment":
            return False
        ours = children(name)
        called = manifest["metadata"]["name"]
        return (self.keep_server and called == ours.server) or (
            self.keep_gateway and called == ours.gateway
        )


@dataclass(frozen=True, slots=True)
class _View:
    """What of the cluster it depends on."""

    wanted: str
    running: str
    one_by_one: bool
    servers: int
    ready_new: int
    old: int
    ready_old: int
    gateways: int
    gateways_settled: bool
    gateways_leave: bool
    holding: frozenset[str]
    before: Rollout | None
    work: Mapping[str, Work] = field(default_factory=dict)

    @property
    def running_answers(self) -> int:
        return sum(one.running for one in self.work.values())

    @property
    def is_ours(self) -> bool:
        """A hold that is there was asked for here, and not by a person."""
        return self.before is not None and self.before.step in ("Draining", "Replacing", "GivenUp")


def plan(
    name: str,
    wanted: list[Manifest],
    seen: Seen,
    patience: Patience,
    *,
    suspended: bool = False,
    work: Mapping[str, Work] | None = None,
) -> Plan:
    """
    What to do now for the model *name*.

    Args:
        wanted: all children that there should be.
        work: the gateways' answers after a plan that said `hold`; None before.
    """
    server = _deployment(wanted, children(name).server)
    there = seen.child("Deployment", children(name).server)
    if server is None or there is None:
        return Plan()
    if suspended:
        return _suspend(seen, there, patience.drain_s)
    view = _view(name, wanted, server, there, seen, work or {})
    now = seen.now
    if view.wanted == view.running and (view.servers or not view.old):
        return _applied(view, now, patience.hold_s, asked=work is not None)
    return _changed(view, now, patience.idle_timeout_s, asked=work is not None)


def _suspend(seen: Seen, there: Manifest, drain_s: float) -> Plan:
    """Gateways go first, each after its last answer; the server is there until then, or until the bound is reached."""
    leaving = sum(1 for _ in seen.live_pods(GATEWAY))
    if not leaving or not any(seen.live_pods(SERVER)) or there["spec"].get("replicas") == 0:
        return Plan()
    was = before(seen)
    since = (
        was.since if was is not None and was.step == "Waiting" and not was.template else seen.now
    )
    if _seconds(since, seen.now) > drain_s + _GRACE_S:
        told = f"The server goes, though {_counted(leaving, 'gateway is', 'gateways are')} still there after {drain_s:g} s."
        return Plan(
            Rollout("Waiting", since, "", "IdleTimeoutExceeded", told), again_s=_WAIT_AGAIN_S
        )
    told = f"{_counted(leaving, 'gateway ends its', 'gateways end their')} running answers; then the server goes."
    rollout = Rollout("Waiting", since, "", "WaitingForGateway", told)
    return Plan(rollout, keep_server=True, again_s=_WAIT_AGAIN_S)


def _changed(view: _View, now: str, idle_timeout_s: float, *, asked: bool) -> Plan:
    """Another template is wanted than the one that runs."""
    before = view.before
    if view.one_by_one or not view.ready_old or not view.gateways:
        held = before is not None and before.step in ("Draining", "Replacing") and view.holding
        if held and not asked:
            return Plan(before, keep_server=True, keep_gateway=True, hold=True)
        return _replace(view, now, "Replacing" if held else "Starting")
    # 1. Waiting.
    step = before.step if before is not None else None
    since = before.since if before is not None else now
    if not view.gateways_settled and step != "Draining":
        began = since if step == "Waiting" else now
        if _seconds(began, now) <= idle_timeout_s + _GRACE_S:
            told = "The gateways are being replaced, and the changed server waits for that."
            rollout = Rollout("Waiting", began, view.wanted, "WaitingForGateway", told)
            return Plan(rollout, keep_server=True, again_s=_WAIT_AGAIN_S)
    # 2. Draining: told before it is begun, so that whoever finds a hold knows whose it is.
    told = f"The changed server waits for running answers, until {_at(since, idle_timeout_s)} at most; new requests wait."  # fmt: skip
    if step != "Draining":
        told = "The changed server waits for running answers; new requests wait."
        rollout = Rollout("Draining", now, view.wanted, "Draining", told)
        return Plan(rollout, keep_server=True, keep_gateway=True, again_s=0.0)
    if not asked:
        return Plan(before, keep_server=True, keep_gateway=True, hold=True)
    elapsed_s, running = _seconds(since, now), view.running_answers
    silent = [one.problem for one in view.work.values() if one.problem]
    is_late = elapsed_s >= idle_timeout_s
    if running and is_late:
        told = f"{running} running answers were ended after {idle_timeout_s:g} s, for the changed server."
        return _replace(view, now, "Replacing", "IdleTimeoutExceeded", told)
    if not running and silent and (is_late or elapsed_s >= _UNANSWERED_S):
        told = f"The server is replaced without waiting for its answers. {silent[0]}"
        return _replace(view, now, "Replacing", "GatewayNotAsked", told)
    if not running and not silent and (is_late or not view.gateways_leave):
        return _replace(view, now, "Replacing")
    if running:
        told = f"The changed server waits for {_counted(running, 'running answer', 'running answers')}, until {_at(since, idle_timeout_s)} at most; new requests wait."  # fmt: skip
    rollout = Rollout("Draining", since, view.wanted, "Draining", told)
    return Plan(rollout, keep_server=True, keep_gateway=True, again_s=_DRAIN_AGAIN_S)


def _replace(view: _View, now: str, step: Step, reason: str = "RollingOut", told: str = "") -> Plan:
    """3. The new template may be applied."""
    told = told or "The changed server takes over."
    rollout = Rollout(step, now, view.wanted, reason, told)
    return Plan(rollout, keep_gateway=step == "Replacing", again_s=_WAIT_AGAIN_S)


def _applied(view: _View, now: str, hold_s: float, *, asked: bool) -> Plan:
    """The template that is wanted has been applied."""
    before = view.before
    if before is None:
        return Plan()
    enough = view.servers if view.one_by_one else min(1, view.servers)
    if view.ready_new >= enough and not view.old:
        if not view.holding or not view.is_ours:
            return Plan()
        told = "The changed server is ready; the gateways go on."
        rollout = Rollout(before.step, before.since, view.wanted, before.reason, told)
        return Plan(rollout, keep_gateway=True, resume=view.holding, again_s=_RESUME_AGAIN_S)
    if before.step in ("Starting", "Waiting"):
        told = "The changed server starts."
        return Plan(Rollout("Starting", before.since, view.wanted, "RollingOut", told))
    # 4. Given up.
    since = before.since if before.step in ("Replacing", "GivenUp") else now
    is_late = before.step == "Replacing" and _seconds(since, now) >= hold_s
    if before.step == "GivenUp" or is_late:
        told = (
            f"The changed server was not ready after {hold_s:g} s; requests no longer wait for it."
        )
        rollout = Rollout("GivenUp", now if is_late else since, view.wanted, "RolloutGivenUp", told)
        return Plan(rollout, resume=view.holding, again_s=_RESUME_AGAIN_S if view.holding else None)
    if not asked:
        return Plan(before, keep_gateway=True, hold=True)
    told = f"The changed server starts; requests wait for it until {_at(since, hold_s)} at most."
    reason = before.reason if before.step == "Replacing" else "RollingOut"
    rollout = Rollout("Replacing", since, view.wanted, reason, told)
    return Plan(rollout, keep_gateway=True, again_s=_WAIT_AGAIN_S)


def _view(
    name: str,
    wanted: list[Manifest],
    server: Manifest,
    there: Manifest,
    seen: Seen,
    work: Mapping[str, Work],
) -> _View:
    template = _hash(server["spec"]["template"])
    servers = int(server["spec"].get("replicas", 1))
    pods = list(seen.live_pods(SERVER))
    new = [pod for pod in pods if servers and _hash(pod) == template]
    old = [pod for pod in pods if pod not in new]
    gateways = list(seen.live_pods(GATEWAY))
    return _View(
        wanted=template,
        running=_hash(there["spec"]["template"]),
        one_by_one=server["spec"]["strategy"]["type"] == "RollingUpdate",
        servers=servers,
        ready_new=sum(is_ready(pod) for pod in new),
        old=len(old),
        ready_old=sum(is_ready(pod) for pod in old),
        gateways=sum(is_ready(pod) for pod in gateways),
        gateways_settled=_settled(name, wanted, seen),
        gateways_leave=any("deletionTimestamp" in pod["metadata"] for pod in gateways),
        holding=frozenset(pod for pod, one in seen.gateways.items() if _holds(one.status)),
        before=before(seen),
        work=work,
    )


def before(seen: Seen) -> Rollout | None:
    """The rollout that stands in the status."""
    said = seen.before.get("rollout")
    if not said:
        return None
    about = condition({"status": seen.before}, "Progressing")
    return Rollout(
        said["step"], str(said.get("since") or seen.now), str(said.get("template", "")),
        str(about.get("reason", "RollingOut")), str(about.get("message", "")),
    )  # fmt: skip


def _settled(name: str, wanted: list[Manifest], seen: Seen) -> bool:
    """No gateway goes away or is about to: each one that does still has streams on the server."""
    if any("deletionTimestamp" in pod["metadata"] for pod in seen.live_pods(GATEWAY)):
        return False
    asked = _deployment(wanted, children(name).gateway)
    there = seen.child("Deployment", children(name).gateway)
    if asked is None or there is None:
        return True
    told = there.get("status") or {}
    return (
        _hash(asked["spec"]["template"]) == _hash(there["spec"]["template"])
        and int(told.get("observedGeneration", 0)) >= int(there["metadata"].get("generation", 0))
        and int(told.get("updatedReplicas", 0)) == int(told.get("replicas", 0))
    )


def _holds(status: Mapping[str, Any] | None) -> bool:
    return any(one.get("drained") == "hold" for one in (status or {}).get("upstreams") or ())


def _deployment(wanted: list[Manifest], name: str) -> Manifest | None:
    for one in wanted:
        if one["kind"] == "Deployment" and one["metadata"]["name"] == name:
            return one
    return None


def _hash(template: Mapping[str, Any]) -> str:
    return str((template["metadata"].get("annotations") or {}).get(TEMPLATE_HASH, ""))


def _seconds(since: str, now: str) -> float:
    return (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds()


def _at(since: str, after_s: float) -> str:
    """That moment, to the second: a sentence that does not change with each look."""
    return f"{datetime.fromisoformat(since) + timedelta(seconds=after_s):%H:%M:%S} UTC"


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
