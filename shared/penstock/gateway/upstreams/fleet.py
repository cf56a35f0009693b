"""
The upstreams as the gateway knows them while it runs: verdict, server kind, profiles, limiter, counters.

Values of the outside (settings, probes, refusals) come in through methods; nothing here makes a request.
`profiles` keeps it up to date, `pipeline` reads it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from penstock import limits
from penstock.breaker import Breaker
from penstock.concurrency import Left
from penstock.detection import judge
from penstock.domain.profile import (
    ModelProfile,
    ModelReading,
    ServerReading,
    TemplateRules,
)
from penstock.domain.upstream import Evidence, Locality, ServerKind, Upstream, Verdict
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Spot
from penstock.gateway.upstreams.absence import Absence
from penstock.gateway.upstreams.gate import Gate
from penstock.gateway.upstreams.holding import Holding
from penstock.gateway.upstreams.limiting import UpstreamLimit
from penstock.gateway.upstreams.origin import origin_of
from penstock.gateway.upstreams.room import Room
from penstock.gateway.upstreams.vitals import Vitals
from penstock.resources import share_of
from penstock.servers import spec as spec_of
from penstock.servers.base import ServerSpec
from penstock.settings import Settings

_MOST_MODELS_REMEMBERED = 256


_Value = TypeVar("_Value")


def _remember(known: OrderedDict[str, _Value], model: str, value: _Value) -> None:
    """Keep what was learned of a model; the oldest goes when there are too many."""
    known[model] = value
    known.move_to_end(model)
    while len(known) > _MOST_MODELS_REMEMBERED:
        known.popitem(last=False)


def _edition(model: ModelReading) -> str:
    """What tells a model from another one that was made under the same name."""
    return str(model.details.get("digest") or "")


class Supervised(Protocol):
    """A server that the gateway runs (`supervisor`)."""

    @property
    def is_given_up(self) -> bool:
        """Whether it is not started again by itself."""

    @property
    def is_suspected(self) -> bool:
        """Whether it may have ended, and that is not known yet."""

    def suspect(self) -> None:
        """A connection to it broke: requests are held until it is known whether it has ended."""

    async def settled(self) -> None:
        """Wait until that is known."""

    def refuse_if_given_up(self) -> None:
        """Raise the reason why it is not started again, if it is not."""

    def try_again(self) -> None:
        """Start it again if it was given up."""

    def shown(self, now_s: float) -> dict[str, Any]:
        """As the status has it."""


class UpstreamState:
    """
    One upstream at run time.

    Attributes:
        upstream: as configured or discovered.
        declared: the name under which it is declared, asked for and switched; `name` but for a member.
        verdict: local or cloud, with what probes added.
        kind: the server kind, None until it was recognised once.
        reachable: the last contact's result, None before the first; away_since_s: loop time of the first of
            those since when it is not, None while it is.
        error: one sentence on why it was not reachable, None while it is.
        reading: what the server said last.
        limiter: permits of this upstream (local ones; cloud upstreams are not limited).
        holding: why requests wait in front of it, if they do.
        absence: how long it has been away in all.
        breaker: whether it fails so often that nobody is sent.
        vitals: what its health is judged by.
        restart: restarts its server for the reason given, where that is ours to do; returns whether it runs.
        supervised: who runs its server, where that is this gateway.
        on_suspicion: told when a connection to it broke.
        gate: whether new requests are refused, or pass unchanged.
        room: what its requests have in common.
        left: what clients that hung up left, for whoever asks for the very same again.
        limit: how many permits there are, and by what that is found.
        generation: counts up whenever a request for this upstream would be made differently.
        ghosts: requests whose clients are gone and that the server still works on.
    """

    def __init__(self, upstream: Upstream, limiter: Limiter, breaker: Breaker) -> None:
        self.upstream = upstream
        self.name, self.declared = upstream.name, upstream.declared
        self.origin, self.host, self.prefix = origin_of(upstream)
        self.verdict: Verdict = judge(upstream.url, declared=upstream.local)
        self.kind: ServerKind | None = upstream.kind
        self.version: str | None = None
        self.reachable: bool | None = None
        self.away_since_s: float | None = None
        self._ready = True
        self._loads = 0
        self.error: str | None = None
        self.reading: ServerReading | None = None
        self.evidence: tuple[Evidence, ...] = ()
        self.limiter = limiter
        self.absence = Absence()
        limiter.stood_s = self.absence.total_s
        self.holding = Holding()
        self.holding.on_change = self._note_absence
        self.breaker = breaker
        self.vitals = Vitals()
        self.restart: Callable[[str], Awaitable[bool]] | None = None
        self.supervised: Supervised | None = None
        self.on_suspicion: Callable[[], None] | None = None
        self.gate = Gate()
        self.room = Room(limiter)
        self.left: Left[Spot | Haunted] = Left()
        self.limit = UpstreamLimit(limiter)
        self.first_look = asyncio.Event()
        self.looked_at: float | None = None
        self.profiles: dict[str, ModelProfile] = {}
        self.last_windows: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self.refused_windows: OrderedDict[str, int] = OrderedDict()
        self.learned_windows: OrderedDict[str, int] = OrderedDict()
        self.learned_templates: OrderedDict[str, TemplateRules] = OrderedDict()
        self.prefill_tokens_per_s: float | None = None
        self.ghosts = 0
        self.last_out_of_memory_s: float | None = None
        self.generation = 0
        self._empty_readings = 0

    @property
    def ready(self) -> bool:
        """Whether it has loaded, by its own word: False while it loads, and not any more when it died of that."""
        return self._ready

    @ready.setter
    def ready(self, is_ready: bool) -> None:
        self._ready = is_ready
        self._note_absence()

    def note_load(self, by: int) -> None:
        """A request is sent for which the model has to be loaded first (1), or its answer begins, or never will (-1)."""
        self._loads += by
        self._note_absence()

    def _note_absence(self) -> None:
        is_loading = not self._ready or self._loads > 0
        self.absence.note(bool(self.holding.reasons) or is_loading)

    @property
    def is_local(self) -> bool:
        """Whether the upstream is local."""
        return self.verdict.is_local

    @property
    def spec(self) -> ServerSpec:
        """The file of its server kind; the generic one until the kind is known."""
        return spec_of(self.kind or ServerKind.GENERIC)

    @property
    def slots(self) -> int | None:
        """Requests that the server works on at a time, by its own word; None when it does not say."""
        told = [m.slots for m in self.reading.models if m.slots] if self.reading is not None else []
        return max(told, default=None)

    @property
    def slots_for_us(self) -> int | None:
        """This gateway's share of the slots; None when the server does not say how many it has."""
        slots = self.slots
        return None if slots is None else share_of(slots, self.upstream.gateway_replicas)

    def takes_requests(self, now_s: float) -> bool:
        """Whether a request that is sent there now can be expected to be answered."""
        return (
            self.reachable is not False
            and self.ready
            and self.gate.refusing is None
            and not self.holding.reasons
            and not (self.supervised is not None and self.supervised.is_given_up)
            and not self.breaker.is_open(now_s)
        )

    @property
    def comes_back(self) -> bool:
        """Whether it is away on purpose, or loads: then its failures speak for nothing."""
        return bool(self.holding.reasons) or not self.ready

    def suspect(self) -> None:
        """A connection broke: if the server is ours, it may have died."""
        if self.supervised is not None:
            self.supervised.suspect()
        if self.on_suspicion is not None:
            self.on_suspicion()

    def profile(self, model: str) -> ModelProfile | None:
        """What is known of *model* here, None when nothing is."""
        return self.profiles.get(model)

    def locality_of(self, model: str) -> Locality:
        """Local or cloud, for this model: a local server may only relay some models to a cloud."""
        if not self.verdict.is_local:
            return Locality.CLOUD
        profile = self.profiles.get(model)
        if profile is not None and profile.is_remote and self.upstream.local is not True:
            return Locality.CLOUD
        return Locality.LOCAL

    def is_passing_emptiness(self, reading: ServerReading) -> bool:
        """
        Whether a reading without models is to be passed over: a server that starts or stops just now
        answers some paths and not others. The second one in a row is believed.
        """
        if not reading.ready and self.profiles:
            self.ready = False  # it loads; what it serves is known already
            return True
        if reading.models or not self.profiles:
            self._empty_readings = 0
            return False
        self._empty_readings += 1
        return self._empty_readings < 2

    def learn(
        self,
        reading: ServerReading,
        *,
        settings: Settings,
        token_limit: int | None,
        now_s: float,
    ) -> bool:
        """
        Take in what the server said.

        Args:
            settings: for explicit windows.
            token_limit: value of `LOCAL_MODEL_TOKEN_LIMIT`, None when it is not set.
            now_s: loop time.

        Returns:
            whether anything that a client could notice is different now.
        """
        before = {model: (p.window.tokens, p.reading) for model, p in self.profiles.items()}
        for old in self.profiles.values():
            fresh = next((m for m in reading.models if m.model == old.model), None)
            if fresh is None or fresh.running_window != old.reading.running_window:
                # A window that a refusal named holds until the server runs with another one.
                self.refused_windows.pop(old.model, None)
                self.learned_windows.pop(old.model, None)
                self.learned_templates.pop(old.model, None)
        self._note_loaded(reading)
        self.reading = reading
        self.version = reading.version or self.version
        self.ready = reading.ready
        self.profiles = {
            model.model: self._profile(model, settings, token_limit, now_s)
            for model in reading.models
        }
        self.looked_at = now_s
        self.room.learn(reading, self.spec.behaviour, settings.concurrency)
        self.limit.slots_told(self.slots_for_us)
        changed = before != {m: (p.window.tokens, p.reading) for m, p in self.profiles.items()}
        self.generation += changed
        return changed

    def _note_loaded(self, reading: ServerReading) -> None:
        """
        Remember what loaded models run with: a server that unloads an idle one no longer tells, and will
        load it with the same window again, unless it is another process, or the model another, by then.
        """
        if reading.version and self.version and reading.version != self.version:
            self.forget_loaded()
        for model in reading.models:
            if model.loaded and model.running_window:
                _remember(self.last_windows, model.model, (model.running_window, _edition(model)))
        present = {model.model: _edition(model) for model in reading.models}
        for name, (_, edition) in list(self.last_windows.items()):
            if present.get(name) != edition:
                del self.last_windows[name]

    def forget_loaded(self) -> None:
        """
        The server was away, so that its next process may load models with other windows, and take what this
        one refused.
        """
        self.last_windows.clear()
        self.refused_windows.clear()
        self.room.forget()

    def refused(
        self, model: str, window: int, *, settings: Settings, token_limit: int | None
    ) -> None:
        """A refusal for length named the *window* of *model*: it caps all that we believed."""
        _remember(self.refused_windows, model, window)
        self._renew(model, settings, token_limit)

    def loaded_with(
        self, model: str, window: int, *, settings: Settings, token_limit: int | None
    ) -> bool:
        """A request had *model* loaded with a window that it named. Returns whether that is news."""
        known = self.profiles.get(model)
        if known is None or (known.reading.loaded and known.reading.running_window == window):
            return False
        reading = replace(
            known.reading, loaded=True, running_window=window, window_origin="num_ctx of a request"
        )
        self.profiles[model] = self._profile(reading, settings, token_limit, known.learned_at)
        self.generation += 1
        return True

    def truncated(
        self, model: str, tokens: int, *, settings: Settings, token_limit: int | None
    ) -> None:
        """The server kept *tokens* of a longer prompt of *model*, and said nothing."""
        known = self.learned_windows.get(model)
        _remember(self.learned_windows, model, max(tokens, known or 0))
        self._renew(model, settings, token_limit)

    def learned_template(
        self, model: str, rules: TemplateRules, *, settings: Settings, token_limit: int | None
    ) -> None:
        """A refusal told what the template of *model* does not take."""
        _remember(self.learned_templates, model, rules)
        self._renew(model, settings, token_limit)

    def _renew(self, model: str, settings: Settings, token_limit: int | None) -> None:
        known = self.profiles.get(model)
        if known is not None:
            self.profiles[model] = self._profile(
                known.reading, settings, token_limit, known.learned_at
            )
        self.generation += 1

    def _profile(
        self, model: ModelReading, settings: Settings, token_limit: int | None, now_s: float
    ) -> ModelProfile:
        window = limits.decide_window(
            model=model.model,
            explicit=self.upstream_window(model.model, settings),
            env=token_limit,
            last=self.last_windows.get(model.model, (None, ""))[0],
            running=model.running_window,
            running_origin=model.window_origin,
            learned=self.learned_windows.get(model.model),
            refused=self.refused_windows.get(model.model),
            fallback=settings.limits.fallback,
        )
        learned = self.learned_templates.get(model.model)
        if learned is not None:
            model = replace(model, template=learned)
        return ModelProfile(
            upstream=self.name,
            kind=self.kind or ServerKind.GENERIC,
            reading=model,
            window=window,
            learned_at=now_s,
        )

    def upstream_window(self, model: str, settings: Settings) -> int | None:
        """The window that the configuration gives *model*: the upstream's own, else the limits'."""
        for configured in settings.upstreams:
            if configured.name == self.declared and configured.window is not None:
                return int(configured.window)
        return limits.explicit_window(model, settings.limits)

    def unknown_profile(
        self, model: str, settings: Settings, token_limit: int | None
    ) -> ModelProfile:
        """The profile of a model that the server does not list: by its name only."""
        return self._profile(ModelReading(model), settings, token_limit, 0.0)

    def note_evidence(self, verdict: Verdict) -> None:
        """A probe's verdict: it may turn local into cloud, never a public address into local."""
        self.verdict = replace(verdict)


class Fleet:
    """All upstreams by name, in the order of the configuration."""

    def __init__(self, states: dict[str, UpstreamState]) -> None:
        self.states = states

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.states.values())

    def __len__(self) -> int:
        return len(self.states)

    def get(self, name: str) -> UpstreamState:
        """The upstream called *name*, or a member of it that can be reached; KeyError when there is none."""
        found = self.states.get(name)
        if found is None:
            members = self.named(name)
            found = next((s for s in members if s.reachable), members[0] if members else None)
        if found is None:
            raise KeyError(name)
        return found

    def named(self, name: str) -> list[UpstreamState]:
        """The upstream that is declared as *name*, or its members; empty when there is none."""
        return [state for state in self.states.values() if state.declared == name]

    def declared(self) -> list[str]:
        """The names under which there are upstreams, each once."""
        return list(dict.fromkeys(state.declared for state in self.states.values()))
