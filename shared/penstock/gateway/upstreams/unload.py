"""
Have a server unload a model, where its kind can: what to ask stands in the kind's file (`ServerSpec.unload`).

Shared by `penstock unload`, by whoever frees memory, and by nobody on a request's path.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.adapters import probe
from penstock.domain.upstream import ServerKind
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper

_WITHIN_S = 30.0
_UNKNOWN_PATH = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Unloaded:
    """
    What became of it.

    Attributes:
        done: the server says that it unloaded the model.
        why: one sentence when it did not.
    """

    done: bool
    why: str = ""


def can_unload(state: UpstreamState) -> bool:
    """Whether it has a way: its kind has one, and of llama.cpp it is a router, which tells a status for each model."""
    if not state.is_local or state.spec.unload is None:
        return False
    if state.kind is not ServerKind.LLAMACPP:
        return True
    return any(profile.reading.status for profile in state.profiles.values())


async def unload(keeper: ProfileKeeper, state: UpstreamState, model: str) -> Unloaded:
    """
    Unload *model* at *state*. Requests that run there are the server's to end; it is looked at afterwards.

    Args:
        model: its id there.
    """
    ask = state.spec.unload
    if not state.is_local:
        return Unloaded(
            False, f"The upstream {state.name!r} is a cloud: there is nothing to unload."
        )
    if ask is None:
        return Unloaded(
            False,
            f"{state.spec.title} at {state.name!r} has no way to unload a model; ending the server frees it.",
        )
    answer = await probe.ask(
        state.upstream.url,
        ask(model),
        client=keeper.http(state),
        api_key=state.upstream.api_key,
        timeout_s=_WITHIN_S,
    )
    if answer is None:
        return Unloaded(False, f"The upstream {state.name!r} did not answer.")
    await keeper.look_again(state)
    # LM Studio answers 200 to every path.
    if answer.ok and not (isinstance(answer.json, dict) and answer.json.get("error")):
        return Unloaded(True)
    told = answer.message[:300]
    profile = state.profile(model)
    if answer.status in _UNKNOWN_PATH and profile is not None:
        return Unloaded(
            False,
            f"This {state.spec.title} at {state.name!r} cannot unload ({answer.status}: {told}).",
        )
    return Unloaded(False, f"The upstream {state.name!r} refused ({answer.status}): {told}")
