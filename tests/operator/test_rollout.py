"""How a changed server takes over: in a simulated cluster, with an operator that may die at any moment."""

from __future__ import annotations

from typing import Any

import pytest

from penstock_operator.gateways.rollout import LEASE_S, Patience, plan
from penstock_operator.seen import Seen
from rollout_world import SPEC, World

CHANGED: dict[str, Any] = {**SPEC, "tuning": {"contextLength": 4096}}
SETTLED_S = 20.0


def settled(**more: Any) -> World:
    """A model that answers, under traffic."""
    world = World(**more)
    world.traffic = False
    world.model(SPEC)
    world.run(10.0)
    world.traffic = True
    world.run(SETTLED_S)
    assert world.condition("Ready")["status"] == "True", world.status
    assert world.failed == world.broken == 0
    assert world.told == []
    world.effects = 0
    return world


def test_no_answer_breaks_and_no_request_fails() -> None:
    """Gateways hold, answers end, the server is replaced, what was held goes on; each step is told."""
    world = settled()
    world.model(CHANGED)
    world.run(SETTLED_S + 2.0)
    assert world.condition("Ready") | {"lastTransitionTime": ""} == {
        "type": "Ready", "status": "False", "reason": "Draining", "observedGeneration": 2, "lastTransitionTime": "",
        "message": "The changed server waits for 4 running answers, until 00:01:20 UTC at most; new requests wait.",
    }  # fmt: skip
    assert world.status["phase"] == "Updating"
    world.run(60.0)
    assert (world.broken, world.failed) == (0, 0)
    assert world.reasons == ["Draining", "RollingOut"]
    assert world.condition("Ready")["status"] == "True"
    assert "rollout" not in world.status
    assert not world.condition("Progressing")
    assert not any(one.waiting or one.holds(world.now_s) for one in world.gateways.values())
    events = [(one["type"], one["reason"]) for one in world.cluster.events]
    assert events[-3:] == [
        ("Normal", "Draining"),
        ("Normal", "RollingOut"),
        ("Normal", "RolledOut"),
    ]


def _effects() -> int:
    world = settled()
    world.model(CHANGED)
    world.run(60.0)
    return world.effects


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_operator_may_die_at_every_effect(after: bool) -> None:
    """Another one that knows nothing but the cluster brings it to the same end: nothing breaks, nobody holds."""
    many = _effects()
    assert many > 15
    for number in range(1, many + 1):
        world = settled()
        world.kill_at, world.after = number, after
        world.model(CHANGED)
        world.run(90.0)
        assert world.kill_at is None, number
        assert (world.broken, world.failed) == (0, 0), number
        assert world.condition("Ready")["status"] == "True", number
        assert not any(one.holds(world.now_s) for one in world.gateways.values()), number


def test_a_change_that_is_taken_back_replaces_nothing() -> None:
    """Gateways go on with the server that is there."""
    world = settled(stream_s=30.0)
    world.model(CHANGED)
    world.run(SETTLED_S + 5.0)
    servers = world._servers()
    world.model(SPEC)
    world.run(60.0)
    assert world._servers() == servers
    assert world.failed == world.broken == 0
    assert not any(one.holds(world.now_s) for one in world.gateways.values())
    assert "rollout" not in world.status


def test_endless_answers_are_ended_after_the_bound_and_that_is_said() -> None:
    """`rollout.idleTimeoutSeconds` bounds them; a Warning tells how many."""
    world = settled(stream_s=10_000.0)
    world.model(CHANGED)
    world.run(SETTLED_S + 59.0)
    assert world.broken == 0
    world.run(SETTLED_S + 90.0)
    assert world.broken > 0
    assert world.failed == 0
    warned = [one for one in world.cluster.events if one["type"] == "Warning"]
    assert [one["reason"] for one in warned] == ["IdleTimeoutExceeded"]
    assert warned[0]["note"].endswith(
        "running answers were ended after 60 s, for the changed server."
    )
    assert world.condition("Ready")["status"] == "True"


def test_a_server_that_never_comes_ends_the_hold() -> None:
    """After the gateways' own limit nobody waits any more, and that is said; a change heals it."""
    world = settled()
    world.load_s = 1e9
    world.model(CHANGED)
    world.run(SETTLED_S + 640.0)
    assert not any(one.holds(world.now_s) for one in world.gateways.values())
    progress = world.condition("Progressing")
    assert (progress["status"], progress["reason"]) == ("False", "RolloutGivenUp")
    assert (
        progress["message"]
        == "The changed server was not ready after 600 s; requests no longer wait for it."
    )
    assert world.condition("Ready")["status"] == "False"
    assert "RolloutGivenUp" in [one["reason"] for one in world.cluster.events]
    world.load_s = 4.0
    world.model({**SPEC, "tuning": {"contextLength": 2048}})
    world.run(SETTLED_S + 700.0)
    assert world.condition("Ready")["status"] == "True"
    assert "rollout" not in world.status


def test_a_silent_gateway_is_waited_for_only_a_while() -> None:
    """Half a minute; then its answers may break, and that is said."""
    world = settled()
    silent = world.gateways["m-0"]
    silent.answers = False
    world.model(CHANGED)
    world.run(SETTLED_S + 29.0)
    assert world.condition("Progressing")["reason"] == "Draining"
    world.run(SETTLED_S + 60.0)
    assert world.reasons == ["Draining", "GatewayNotAsked"]
    assert world.condition("Ready")["status"] == "True"


def test_without_an_operator_a_hold_ends_by_itself() -> None:
    """An operator that does not come back leaves no gateway that holds for ever."""
    world = settled(stream_s=30.0)
    world.model(CHANGED)
    world.run(SETTLED_S + 3.0)
    assert all(one.holds(world.now_s) for one in world.gateways.values())
    world._operator = lambda: None  # type: ignore[method-assign]
    world.run(SETTLED_S + 5.0 + LEASE_S)
    assert not any(one.waiting or one.holds(world.now_s) for one in world.gateways.values())
    assert world.failed == 0


def test_a_hold_of_a_person_is_left_alone() -> None:
    """Without a rollout nobody else's hold is ended."""
    world = settled()
    world.gateways["m-0"].hold_until_s = 1e9
    world.run(60.0)
    assert world.gateways["m-0"].holds(world.now_s)


def test_an_evicted_server_is_not_waited_for() -> None:
    """What is left of it is no server of the old kind: the changed one takes over as if it were not there."""
    world = settled()
    name = "m-server-evicted"
    world._put_pod(name, "server", "of the old one", ready=False)
    world.cluster.objects["Pod", "n", name]["status"] |= {"phase": "Failed", "reason": "Evicted"}
    world.cache.heard(world.cluster.put(world.cluster.objects["Pod", "n", name]))
    world.model(CHANGED)
    world.run(90.0)
    assert (world.broken, world.failed) == (0, 0)
    assert world.condition("Ready")["status"] == "True"
    assert "rollout" not in world.status


def seen_suspended(now: str, before: dict[str, Any], gateway: dict[str, Any], **server: Any) -> Any:
    """What comes next of a suspended model with that gateway pod."""
    made = {
        "kind": "Deployment", "metadata": {"name": "m-server"},
        "spec": {"replicas": 1, "template": {"metadata": {}}, **server},
    }  # fmt: skip
    labels = {"labels": {"app.kubernetes.io/component": "gateway"}}
    pods = (
        {"metadata": labels, "status": gateway},
        {"metadata": {"labels": {"app.kubernetes.io/component": "server"}}},
    )
    children = {("Deployment", "m-server"): made}
    seen = Seen(now, "penstock:1", children=children, pods=pods, before=before)
    return plan("m", [made], seen, Patience(), suspended=True)


def test_a_suspended_model_waits_for_its_gateways_within_a_bound() -> None:
    """For a gateway that answers still, from the first look on; not for an evicted one, and not for ever."""
    assert not seen_suspended("2026-01-01T00:00:00Z", {}, {"phase": "Failed"}).keep_server
    first = seen_suspended("2026-01-01T00:00:00Z", {}, {})
    assert first.keep_server
    before = {"rollout": first.rollout.to_dict()}
    later = seen_suspended("2026-01-01T00:06:00Z", before, {})
    assert later.keep_server
    assert later.rollout.since == "2026-01-01T00:00:00Z"
    late = seen_suspended("2026-01-01T00:07:01Z", before, {})
    assert not late.keep_server
    assert late.rollout.reason == "IdleTimeoutExceeded"
    assert seen_suspended("2026-01-01T00:07:06Z", before, {}, replicas=0).rollout is None


def test_scaling_to_none_lets_answers_end() -> None:
    """The server goes when nothing runs there any more, and the gateways hold nothing themselves then."""
    world = settled()
    world.model({**SPEC, "replicas": 0})
    world.run(SETTLED_S + 1.0)
    world.traffic = False
    world.run(60.0)
    assert world.broken == 0
    assert world._servers() == []
    assert not any(one.holds(world.now_s) for one in world.gateways.values())
    assert "rollout" not in world.status
