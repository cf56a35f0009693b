"""Which sampling parameters are sent, and who decided (behaviours D)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from penstock.domain.upstream import ServerKind
from penstock.sampling import (
    LOGICAL_NAMES,
    OptimisedSampling,
    SamplingPlan,
    SamplingValues,
    merge,
    read_request,
)
from penstock.servers import SPECS, spec

OPTIMISED = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1}


def plan(kind: str, body: dict[str, Any], **layers: Any) -> SamplingPlan:
    """The plan for a request to one server kind."""
    server = spec(ServerKind(kind))
    return merge(
        given=read_request(body, server.parameters.aliases),
        forced=layers.get("forced", {}),
        defaults=layers.get("defaults", {}),
        published=layers.get("published", {}),
        options=layers.get("options", OptimisedSampling()),
        parameters=server.parameters,
        applies_model_defaults=server.behaviour.applies_model_defaults,
    )


@pytest.mark.parametrize(
    ("layers", "value", "source"),
    [
        pytest.param({"forced": {"temperature": 0.1}, "body": 0.7}, 0.1, "configuration", id="the configuration wins over the request"),
        pytest.param({"body": 0.7, "defaults": {"temperature": 0.5}}, 0.7, "request", id="the request over configured defaults"),
        pytest.param({"defaults": {"temperature": 0.5}, "published": {"temperature": 0.6}}, 0.5, "configured default", id="configured defaults over the model"),
        pytest.param({"published": {"temperature": 0.6}}, 0.6, "model", id="the model over the optimised"),
        pytest.param({}, 0.3, "optimised", id="the optimised last"),
        pytest.param({"body": 0}, 0, "request", id="zero is a value"),
        pytest.param({"body": None}, 0.3, "optimised", id="null is not given"),
        pytest.param({"body": None, "published": {"temperature": 0}}, 0, "model", id="the model's zero too"),
    ],
)  # fmt: skip
def test_precedence(layers: dict[str, Any], value: float, source: str) -> None:
    """Contracts 8, one row each."""
    body = {"temperature": layers.pop("body")} if "body" in layers else {}
    found = plan("llamacpp", body, **layers)
    assert (found.values["temperature"], found.sources["temperature"]) == (value, source)


def test_optimised_values_go_to_whoever_can_take_them() -> None:
    """All four, announced; by the server's own names."""
    found = plan("llamacpp", {})
    assert dict(found.set_fields) == OPTIMISED
    assert {c.field for c in found.changes} == set(OPTIMISED)
    assert plan("koboldcpp", {}).set_fields["rep_pen"] == 1.1
    assert plan("tgi", {}).set_fields["repetition_penalty"] == 1.1


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_servers_that_apply_the_models_defaults_are_left_alone(kind: str) -> None:
    """Sending ours would override what the model publishes and the server applies unseen."""
    assert not plan(kind, {}).set_fields


def test_switched_off_nothing_is_sent() -> None:
    """`optimised.enabled: false` leaves the server alone."""
    assert not plan("llamacpp", {}, options=OptimisedSampling(enabled=False)).set_fields


@pytest.mark.parametrize(
    ("kind", "sent", "wire"),
    [
        ("ollama", "repetition_penalty", "repeat_penalty"), ("llamacpp", "repetition_penalty", "repeat_penalty"),
        ("lmstudio", "repetition_penalty", "repeat_penalty"), ("vllm", "repeat_penalty", "repetition_penalty"),
        ("sglang", "repeat_penalty", "repetition_penalty"), ("mlx", "repeat_penalty", "repetition_penalty"),
        ("textgen", "repeat_penalty", "repetition_penalty"), ("koboldcpp", "repetition_penalty", "rep_pen"),
        ("koboldcpp", "typical_p", "typical"), ("tgi", "rep_pen", "repetition_penalty"),
    ],
)  # fmt: skip
def test_names_are_translated(kind: str, sent: str, wire: str) -> None:
    """The client's spelling goes, the server's comes, and that is announced."""
    found = plan(kind, {sent: 0.9})
    assert found.set_fields[wire] == 0.9
    assert sent in found.drop_fields
    assert [c.action for c in found.changes if c.field == sent] == ["renamed"]


def test_what_a_server_cannot_take_is_dropped_and_announced() -> None:
    """Only where the kind is known from a real server; a documented kind drops nothing."""
    found = plan("ollama", {"temperature": 0.5})
    assert not found.drop_fields
    for kind, server in SPECS.items():
        if server.knowledge == "documented":
            everything = dict.fromkeys(LOGICAL_NAMES, 1)
            dropped = [c for c in plan(kind.value, everything).changes if c.action == "dropped"]
            assert not dropped, kind


def test_bounds_of_servers_that_refuse_what_others_accept() -> None:
    """TGI wants top_p strictly below 1 and temperature above 0; both are moved inside and announced."""
    found = plan("tgi", {"top_p": 1.0, "temperature": 0})
    assert 0 < found.set_fields["temperature"] < 0.01
    assert 0.99 < found.set_fields["top_p"] < 1
    assert {c.field for c in found.changes if c.action == "reduced"} == {"top_p", "temperature"}


def test_a_request_that_says_everything_is_not_touched() -> None:
    """Nothing to set, nothing to drop, nothing to announce."""
    body = dict(OPTIMISED)
    found = plan("llamacpp", body)
    assert not found.set_fields
    assert not found.drop_fields
    assert not found.changes


@given(
    st.dictionaries(st.sampled_from(sorted(LOGICAL_NAMES)), st.floats(0, 1), max_size=6),
    st.sampled_from(sorted(SPECS)),
)
def test_the_requests_values_reach_the_server(body: dict[str, float], kind: ServerKind) -> None:
    """Whatever the kind: a value that was given is in force, under some name, unless it is out of bounds."""
    found = plan(kind.value, dict(body), options=OptimisedSampling(enabled=False))
    for name, value in body.items():
        assert found.values[name] == value
        assert found.sources[name] == "request"


@pytest.mark.parametrize(
    "values",
    [{"heat": 1}, {"temperature": -1}, {"temperature": 99}, {"top_p": 2}, {"top_k": 1.5}, {"temperature": float("nan")}],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    """By name and by range."""
    with pytest.raises(ValidationError):
        TypeAdapter(SamplingValues).validate_python(values)
