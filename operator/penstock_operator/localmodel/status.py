"""
The shape of a LocalModel's status, as the CustomResourceDefinition states it. What stands in it is decided in
`penstock_operator.status.conditions`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.domain.options import option
from penstock_operator.localmodel.spec import Part, Passed


class Condition(Part):
    """One condition, as the API conventions have it."""

    type: str = option(effect="Ready, Accepted, ModelCached, ServerReady, ...")
    status: Literal["True", "False", "Unknown"] = option(effect="Whether it holds.")
    reason: str = option(effect="One word for programs.")
    message: str = option(effect="A sentence for people.")
    observed_generation: int = option(0, effect="Generation of the spec that it speaks of.")
    last_transition_time: str = option("", effect="When its status changed last.")


class LastFailure(Part):
    """What went wrong last; gone when it is healed."""

    component: str = option("", effect="weights, server or gateway.")
    pod: str = option("", effect="The pod.")
    container: str = option("", effect="The container.")
    reason: str = option("", effect="One word for programs.")
    message: str = option("", effect="A sentence for people.")
    exit_code: int | None = option(None, effect="Exit code, when it ended.")
    time: str = option("", effect="When it was seen.")


class Rollout(Part):
    """A changed server on its way; what it waits for says the condition Progressing."""

    step: Literal["Waiting", "Draining", "Replacing", "Starting", "GivenUp"] = option(
        effect="Waiting for gateways, Draining them, Replacing the server, Starting one, or GivenUp."
    )
    since: str = option("", effect="When the step began.")
    template: str = option("", effect="Hash of the pod template that is on its way.")


Conditions = Annotated[
    list[Condition],
    Field(
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    ),
]


class LocalModelStatus(Part):
    """What the operator saw last."""

    observed_generation: int = option(0, effect="Generation of the spec that the status speaks of.")
    phase: str = option("", effect="One word for people; programs read the conditions.")
    conditions: Conditions = option(
        factory=list,
        effect="What holds and what does not. `Ready` rolls the others up; docs/kubernetes-troubleshooting.md explains each reason.",
    )
    url: str = option("", effect="Base URL for OpenAI clients in the cluster.")
    served_model_name: str = option("", effect="What clients call the model.")
    runtime: str = option("", effect="The engine that serves it; what `Auto` chose.")
    replicas: int = option(0, effect="Servers that are there.")
    ready_replicas: int = option(0, effect="Servers that answer.")
    selector: str = option("", effect="Labels of the servers' pods, for autoscalers.")
    tuning: Passed = option(
        factory=dict,
        effect="What the engine got; `sources` says of each number where it is from and what limits it.",
    )
    weights: Passed = option(factory=dict, effect="What the header of the weights tells.")
    performance: Passed = option(factory=dict, effect="How quick it was when measured.")
    rollout: Rollout | None = option(None, effect="A changed server on its way.")
    last_failure: LastFailure | None = option(
        None, effect="What went wrong last; gone when it is healed."
    )
