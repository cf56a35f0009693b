"""
Which upstream a request goes to now, and which one instead when that one fails. `resolve` decides by names; this
tells it what is known of the upstreams at this moment. Which of several equal servers behind one name gets it is
decided by `penstock.placement`.
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
from penstock.placement import Member, place
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

    async def resolve(
        self, model: str, *, explicit: str | None, prefix: bytes = b""
    ) -> names.Resolution:
        """
        Which upstream answers for *model*.

        Args:
            prefix: of the conversation: it finds the same member of several again.

        Raises:
            RequestError: none does.
        """
        return self._placed(await self._answering(model, explicit), prefix)

    @property
    def places(self) -> bool:
        """Whether an upstream may have several servers, so that conversations have a place there."""
        return any(state.upstream.endpoints == "dns" for state in self._fleet)

    async def _answering(self, model: str, explicit: str | None) -> names.Resolution:
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
                if len(self._fleet.declared()) == 1 and absent:
                    # It is not there now, but there is nobody else; the retry policy waits for it.
                    return names.Resolution(absent[0].declared, model, (), "only upstream")
                # One that is away may have the model, and another one answers for it.
                away = next((s for s in absent if self._fallback_of(s)), None)
                if away is not None:
                    return names.Resolution(away.declared, model, (), "absent")
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
        return found.model if found.upstream == state.declared else otherwise

    def elsewhere(
        self, model: str, explicit: str | None, tried: Collection[str], prefix: bytes = b""
    ) -> names.Resolution | None:
        """
        A local upstream that serves the same model and can be expected to work now; None when there is none.

        Args:
            model: as the client named it.
            explicit: the upstream that the request's path names: then there is no other, but for its members.
            tried: upstreams that have failed for this request.
            prefix: of the conversation.
        """
        if not model or len(self._fleet) < 2:
            return None
        now_s = asyncio.get_running_loop().time()
        others = [
            state
            for state in self._fleet
            if state.name not in tried
            and state.is_local
            and state.takes_requests(now_s)
            and explicit in (None, state.declared)
        ]
        if not others:
            return None
        try:
            found = self._resolve(model, explicit, others)
        except RequestError:
            return None
        if explicit is None and found.how not in _SAME_MODEL:
            return None
        having = [s for s in others if s.declared == found.upstream and _has(s, found.model)]
        if not having:
            return None
        found = self._placed(found, prefix, having)
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
        if name in tried or not self._fleet.named(name):
            return None
        target = other or model
        if not other and len(self._fleet.get(name).profiles) == 1:
            target = next(iter(self._fleet.get(name).profiles))
        told = Change("route", "model", "rewritten", f"{target} at {name}: {state.name} does not answer")  # fmt: skip
        found = self._placed(names.Resolution(name, target, (told,), "fallback"), b"")
        return None if found.upstream in tried else found

    def _fallback_of(self, state: UpstreamState) -> str | None:
        return next(
            (
                u.fallback
                for u in self._settings().upstreams
                if u.name == state.declared and u.fallback
            ),
            None,
        )

    def _only_owner(self, model: str) -> str | None:
        """The quick way: exactly one upstream lists this very id."""
        owner = None
        for state in self._fleet:
            if _has(state, model):
                if owner not in (None, state.declared):
                    return None
                owner = state.declared
        return owner

    def _resolve(
        self, model: str, explicit: str | None, among: Collection[UpstreamState] | None = None
    ) -> names.Resolution:
        now_s = asyncio.get_running_loop().time()
        among = list(self._fleet) if among is None else among
        together: dict[str, list[UpstreamState]] = {}
        for state in among:
            together.setdefault(state.declared, []).append(state)
        candidates = [self._candidate(name, states, now_s) for name, states in together.items()]
        routing = self._settings().routing
        default = routing.default_upstream
        if default is None and len(self._fleet.declared()) == 1:
            only = next(iter(self._fleet))
            if not only.is_local:
                default = only.declared  # the only one there is was named by the user
        return names.resolve(
            model,
            upstreams=candidates,
            aliases=routing.aliases,
            default_upstream=default,
            explicit_upstream=explicit,
        )

    def _candidate(self, name: str, states: list[UpstreamState], now_s: float) -> names.Candidate:
        """An upstream, with all of its members: as good as the best of those that can be expected to answer."""
        able = [state for state in states if state.takes_requests(now_s)] or states
        return names.Candidate(
            name=name,
            locality=states[0].verdict.locality,
            models=tuple(
                dict.fromkeys(m for s in states for m in (*s.profiles, *s.upstream.models))
            ),
            healthy=any(state.takes_requests(now_s) for state in states),
            free_slots=max(state.limiter.free for state in able),
            # One that fails quickly looks free: its failures count as waits.
            wait_s=min(
                state.limiter.expected_wait_s + _FAILURE_S * state.breaker.doubt(now_s)
                for state in able
            ),
        )

    def _placed(
        self,
        found: names.Resolution,
        prefix: bytes,
        among: Collection[UpstreamState] | None = None,
    ) -> names.Resolution:
        """What was found, at one of its members where it has some."""
        if found.upstream in self._fleet.states:
            return found
        now_s = asyncio.get_running_loop().time()
        states = self._fleet.named(found.upstream) if among is None else among
        members = [
            Member(
                state.name,
                state.limiter.running + state.limiter.waiting,
                state.limiter.limit,
                _rank(state, found.model, now_s),
            )
            for state in states
        ]
        return found._replace(upstream=place(prefix, members))


def _has(state: UpstreamState, model: str) -> bool:
    return model in state.profiles or model in state.upstream.models


def _rank(state: UpstreamState, model: str, now_s: float) -> int:
    """How soon a member can be expected to answer: now; once it is back, or was looked at; or nobody knows."""
    if state.takes_requests(now_s):
        return 0 if state.reachable and (_has(state, model) or not model) else 1
    return 1 if state.comes_back else 2


_FAILURE_S = 60.0
