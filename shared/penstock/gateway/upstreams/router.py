"""
Which upstream a request goes to now, and which one instead when that one fails. `resolve` decides by names; this
tells it what is known of the upstreams at this moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from penstock.domain.change import Change
from penstock.domain.upstream import Locality
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.upstreams import resolve as names
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.settings import Settings

_SAME_MODEL = frozenset({"exact", "alias", "latest"})


class Router:
    """
    Args:
        fleet: all upstreams.
        keeper: asked for a first look where no model is known yet.
        settings: returns the settings in force.
    """

    def __init__(
        self, fleet: Fleet, keeper: ProfileKeeper, settings: Callable[[], Settings]
    ) -> None:
        self._fleet = fleet
        self._keeper = keeper
        self._settings = settings

    async def resolve(self, model: str, *, explicit: str | None) -> names.Resolution:
        """
        Which upstream answers for *model*.

        Raises:
            RequestError: none does.
        """
        if explicit is None and model:
            owner = self._only_owner(model)
            if owner is not None:
                return names.Resolution(owner, model, (), "exact")
        try:
            return self._resolve(model, explicit)
        except RequestError as exc:
            # An upstream of which no model is known yet may have it: the first contact waits.
            unseen = [s for s in self._fleet if s.is_local and not s.profiles]
            if exc.code is not ErrorCode.MODEL_NOT_FOUND or not unseen:
                raise
            await asyncio.gather(*(self._keeper.look(state) for state in unseen))
            try:
                return self._resolve(model, explicit)
            except RequestError:
                absent = [s for s in unseen if not s.profiles]
                if len(self._fleet) == 1 and absent:
                    # It is not there now, but there is nobody else; the retry policy waits for it.
                    return names.Resolution(absent[0].name, model, (), "only upstream")
                # One that is away may have the model, and another one answers for it.
                away = next((s for s in absent if self._fallback_of(s)), None)
                if away is not None:
                    return names.Resolution(away.name, model, (), "absent")
                raise exc from None

    def model_now(
        self, state: UpstreamState, asked: str, explicit: str | None, otherwise: str
    ) -> str:
        """
        The id at *state* that *asked* leads to by what is known of it now.

        Args:
            asked: as the client named it.
            explicit: the upstream that the request's path names, None for none.
            otherwise: what stays when it leads elsewhere, or nowhere.
        """
        if not state.profiles:
            return otherwise
        try:
            found = self._resolve(asked, explicit)
        except RequestError:
            return otherwise
        return found.model if found.upstream == state.name else otherwise

    def elsewhere(
        self, model: str, explicit: str | None, tried: Collection[str]
    ) -> names.Resolution | None:
        """
        A local upstream that serves the same model and can be expected to work now; None when there is none.

        Args:
            model: as the client named it.
            explicit: the upstream that the request's path names: then there is no other.
            tried: upstreams that have failed for this request.
        """
        if explicit is not None or not model or len(self._fleet) < 2:
            return None
        now_s = asyncio.get_running_loop().time()
        others = [
            state
            for state in self._fleet
            if state.name not in tried and state.is_local and state.takes_requests(now_s)
        ]
        if not others:
            return None
        try:
            found = self._resolve(model, None, others)
        except RequestError:
            return None
        if found.how not in _SAME_MODEL:
            return None
        is_local = self._fleet.get(found.upstream).locality_of(found.model) is Locality.LOCAL
        return found if is_local else None

    def fallback(
        self, state: UpstreamState, model: str, tried: Collection[str]
    ) -> names.Resolution | None:
        """
        Where the configuration sends requests for *model* when *state* does not answer; None when it says
        nothing, or that one has failed too. The only way by which a request gets to a cloud that it was not
        meant for.
        """
        wanted = self._fallback_of(state)
        if wanted is None:
            return None
        name, _, other = wanted.partition("/")
        if name in tried or name not in self._fleet.states:
            return None
        target = other or model
        if not other and len(self._fleet.get(name).profiles) == 1:
            target = next(iter(self._fleet.get(name).profiles))
        told = Change("route", "model", "rewritten", f"{target} at {name}: {state.name} does not answer")  # fmt: skip
        return names.Resolution(name, target, (told,), "fallback")

    def _fallback_of(self, state: UpstreamState) -> str | None:
        return next(
            (u.fallback for u in self._settings().upstreams if u.name == state.name and u.fallback),
            None,
        )

    def _only_owner(self, model: str) -> str | None:
        """The quick way: exactly one upstream lists this very id."""
        owner = None
        for state in self._fleet:
            if model in state.profiles or model in state.upstream.models:
                if owner is not None:
                    return None
                owner = state.name
        return owner

    def _resolve(
        self, model: str, explicit: str | None, among: Collection[UpstreamState] | None = None
    ) -> names.Resolution:
        now_s = asyncio.get_running_loop().time()
        candidates = [
            names.Candidate(
                name=state.name,
                locality=state.verdict.locality,
                models=tuple(dict.fromkeys((*state.profiles, *state.upstream.models))),
                healthy=state.takes_requests(now_s),
                free_slots=state.limiter.free,
                # One that fails quickly looks free: its failures count as waits.
                wait_s=state.limiter.expected_wait_s + _FAILURE_S * state.breaker.doubt(now_s),
            )
            for state in (self._fleet if among is None else among)
        ]
        routing = self._settings().routing
        default = routing.default_upstream
        if default is None and len(self._fleet) == 1:
            only = next(iter(self._fleet))
            if not only.is_local:
                default = only.name  # the only one there is was named by the user
        return names.resolve(
            model,
            upstreams=candidates,
            aliases=routing.aliases,
            default_upstream=default,
            explicit_upstream=explicit,
        )


_FAILURE_S = 60.0
