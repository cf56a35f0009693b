"""
How large a server is made: context, requests at a time, the memory that its pod asks for. Pure.

Where the numbers come from. The operator never fetches what users name. The init container that fetches the weights
reads their header and tells what stands there in its termination message; it is kept in the status, since pods go. And
the server that we build ourselves, llama.cpp without a GPU, reads the header of its own file and the memory limit of
its own container when it starts (`penstock llama-server --fit`): so the first start is right already, needs no restart
once the header is known, and is right for weights on a claim that we never saw. Operator and server choose by the same
function (`penstock.tokens.memory_fit`). Engines on a GPU fit themselves (llama.cpp's `--fit`, vLLM's
`--max-model-len auto`). What an engine really got is read back from the gateways (`tuned.py`), and is the truth.

The memory request is written when a pod is made anew for another reason, never as a reason of its own: no server is
restarted because an estimate became known. A person's own numbers always win.

A server that was killed for memory is made smaller (`step_down.py`), also where a person chose its size: a smaller
answer is better than none, and the condition `FitsMemory` says what was asked for and how much that would need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from penstock.tokens.memory_fit import (
    MOST_TOKENS,
    Fit,
    ModelFacts,
    facts_from,
    fit,
    memory_bytes,
    smaller,
)
from penstock_operator.localmodel.names import SERVER
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.localmodel.spec import Tuning
from penstock_operator.seen import Seen
from penstock_operator.sizing.digests import digest_of
from penstock_operator.sizing.step_down import StepDown, is_of, step_down

_MOST_STEPS = 64
_VLLM_REQUESTS = 16
_SUFFIXES = {
    "m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizing:
    """
    Attributes:
        asked: the hash of what is asked for.
        wanted: what would be without kills, chosen: what is; both as far as the operator knows.
        step: how often it was made smaller.
        facts: what the header of the weights tells, None while it is not known.
        exhausted: it was killed and cannot be made smaller.
    """

    asked: str
    wanted: Fit
    chosen: Fit
    step: StepDown
    facts: ModelFacts | None
    exhausted: bool
    fits_itself: bool
    cache_type: str

    @property
    def wanted_bytes(self) -> int | None:
        """Memory that what is asked for needs."""
        return self._bytes(self.wanted)

    @property
    def chosen_bytes(self) -> int | None:
        """Memory that what is chosen needs."""
        return self._bytes(self.chosen)

    def _bytes(self, of: Fit) -> int | None:
        return None if self.facts is None else memory_bytes(self.facts, of, self.cache_type)


def fits_itself(model: LocalModel) -> bool:
    """Whether its server is our own llama.cpp, left to choose its context."""
    spec = model.spec
    return (
        model.runtime == "LlamaCpp"
        and spec.accelerator.type == "None"
        and not spec.runtime.image
        and spec.tuning.kv_cache_type is None
        and spec.tuning.gpu_layers is None
        and spec.tuning.context_length is None
    )


def asked_hash(model: LocalModel) -> str:
    """Of what is asked for that the server's pods depend on, and of nothing that a release decides."""
    spec = model.spec
    parts = (
        spec.model, spec.runtime, spec.tuning, spec.accelerator, spec.resources, spec.scheduling,
        spec.pod_metadata,
    )  # fmt: skip
    said = [one.model_dump(mode="json", exclude_defaults=True) for one in parts]
    return digest_of([model.runtime, model.served_name, spec.cache.claim_name, said])


def sizing(model: LocalModel, seen: Seen) -> Sizing:
    """What the server of *model* is made of now, a step down included that is due."""
    asked = asked_hash(model)
    facts = facts_seen(model, seen, asked)
    limit = quantity(model.spec.resources.limits.get("memory"))
    step = step_down(model.name, asked, seen)
    wanted = chosen = _wanted(model, facts, limit)
    for _ in range(min(step.steps, _MOST_STEPS)):
        chosen = smaller(chosen)
    exhausted = step.killed_now and smaller(chosen) == chosen
    if step.killed_now and not exhausted:
        step, chosen = replace(step, steps=step.steps + 1, killed_now=False), smaller(chosen)
    return Sizing(
        asked=asked,
        wanted=wanted,
        chosen=chosen,
        step=step,
        facts=facts,
        exhausted=exhausted,
        fits_itself=fits_itself(model),
        cache_type=_cache_type(model),
    )


def told(model: LocalModel, size: Sizing) -> Tuning:
    """The numbers that an engine is told which does not choose itself; None for what is left to it."""
    tuning = model.spec.tuning
    if size.step.steps == 0 or size.fits_itself:
        return tuning
    shorter = size.chosen.context_length != size.wanted.context_length
    kept = tuning.context_length is not None or shorter
    return tuning.model_copy(
        update={
            "parallel_requests": size.chosen.parallel,
            "context_length": size.chosen.context_length if kept else None,
        }
    )


def memory_request(model: LocalModel, size: Sizing) -> str | None:
    """What the server's pod asks for, where a person did not say: without a GPU, and once the header is known."""
    asked = model.spec.resources
    if "memory" in asked.requests or "memory" in asked.limits or size.chosen_bytes is None:
        return None
    if model.spec.accelerator.type != "None" or model.runtime != "LlamaCpp":
        return None
    return mebibytes(size.chosen_bytes)


def facts_seen(model: LocalModel, seen: Seen, asked: str) -> ModelFacts | None:
    """
    From the termination messages of the fetchers, else from the status, if that is about the same weights.

    Args:
        asked: the hash of what is asked for; pods that were made for something else may have fetched other weights.
    """
    told: list[Mapping[str, Any]] = []
    for pod in seen.pods_of(SERVER):
        if not is_of(pod, asked):
            continue
        statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
        found = [_told(one) for one in statuses]
        if found and all(found):
            told = [one for one in found if one]
    facts = facts_from(told[0].get("facts") or {}) if told else None
    if facts is not None and told:
        size = sum(int(one.get("size") or 0) for one in told)
        return replace(facts, weights_bytes=max(size, facts.weights_bytes))
    kept = seen.before.get("weights") or {}
    return facts_from(kept.get("header") or {}) if kept.get("uri") == model.spec.model.uri else None


def weights_status(model: LocalModel, size: Sizing) -> dict[str, Any]:
    """`status.weights`: what is known of them; empty while nothing is."""
    if size.facts is None:
        return {}
    return {
        "uri": model.spec.model.uri,
        "size": mebibytes(size.facts.weights_bytes),
        "header": size.facts.to_dict(),
    }


def quantity(value: int | str | None) -> int | None:
    """Bytes of a Kubernetes quantity."""
    if value is None:
        return None
    text = str(value)
    digits = text.rstrip("mkMGTPi")
    return int(Decimal(digits) * _SUFFIXES[text[len(digits) :]])


def mebibytes(size: int) -> str:
    """As a Kubernetes quantity, rounded up."""
    return f"{-(-size // 2**20)}Mi"


def _wanted(model: LocalModel, facts: ModelFacts | None, limit: int | None) -> Fit:
    spec, tuning = model.spec, model.spec.tuning
    asked = tuning.context_length
    if asked is None and facts is None and (model.runtime == "VLLM" or fits_itself(model)):
        asked = MOST_TOKENS  # the longest that it may have chosen itself
    found = fit(
        facts,
        memory_bytes=limit if spec.accelerator.type == "None" else None,
        parallel=tuning.parallel_requests or (_VLLM_REQUESTS if model.runtime == "VLLM" else 1),
        context_length=asked,
        cache_type=_cache_type(model),
    )
    if tuning.context_length is None and asked is not None:
        return replace(found, limited_by="Usual")
    return found


def _cache_type(model: LocalModel) -> str:
    return model.spec.tuning.kv_cache_type or "f16"


def _told(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    ended = (container.get("state") or {}).get("terminated") or {}
    if ended.get("exitCode") != 0:
        return None
    try:
        value = json.loads(str(ended.get("message", "")))
    except ValueError:
        return None
    return value if isinstance(value, dict) and "facts" in value else None
