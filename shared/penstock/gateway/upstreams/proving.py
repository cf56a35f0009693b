"""
Tries out, once for each server version and model, whether a broken answer can be continued there.

A few short requests, greedy and of a few tokens each, when nobody else wants the server: a short answer is cut
and its beginning sent back (`penstock.resume` says what is asked and judges). They are recorded like any other
request, with the client `penstock`, and given up the moment somebody waits. What was found holds for this very
server version, model and template, at whatever upstream these are; it is kept in memory only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from penstock import resume
from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.dialects.ndjson import NdjsonFramer
from penstock.dialects.sse import SseFramer
from penstock.domain.fault import Outcome
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import Locality
from penstock.gateway.conversations.summaries import quiet_permit
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.relays.tape import pieces_of
from penstock.gateway.steps.upstream_headers import local_headers
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.resume import Piece, Said, Way
from penstock.settings import Settings

log = logging.getLogger("penstock.resume")

Identity = tuple[object, ...]
NOTHING: frozenset[Way] = frozenset()
_MOST_KEPT = 256
_MOST_TRIES = 3
_LONGEST_S = 60.0
_QUIET_POLL_S = 0.25
_BEGUN = "One two"


def identity(state: UpstreamState, profile: ModelProfile) -> Identity:
    """What a proof holds for."""
    reading = profile.reading
    details = reading.details
    return (
        state.kind,
        state.version,
        reading.model,
        reading.template_digest,
        details.get("digest"),
        details.get("size_bytes"),
        reading.trained_window,
    )


class _Disturbed(Exception):
    """Somebody waits for the server."""


class Proofs:
    """
    What servers were seen to continue.

    Args:
        transport: the way to upstreams.
        spawn: runs something in the background.
        begin: gives a new exchange an id and shows it as in flight.
        finish: records one that has ended.
        via: our own `Via` entry.
    """

    def __init__(
        self,
        transport: UpstreamTransport,
        spawn: Callable[[Any, str], asyncio.Task[Any]],
        begin: Callable[[Exchange], None],
        finish: Callable[[Exchange], None],
        via: bytes,
    ) -> None:
        self._transport = transport
        self._spawn = spawn
        self._begin = begin
        self._finish = finish
        self._via = via
        self._found: OrderedDict[Identity, frozenset[Way]] = OrderedDict()
        self._tries: dict[Identity, int] = {}
        self._running: set[Identity] = set()

    def of(self, state: UpstreamState, profile: ModelProfile) -> frozenset[Way]:
        """What was seen to be continued there; nothing while it was not tried."""
        if state.spec.behaviour.continues is None:
            return NOTHING
        return self._found.get(identity(state, profile), NOTHING)

    def shown(self, state: UpstreamState, profile: ModelProfile) -> list[Way] | None:
        """The same for the status; None while it was not tried."""
        found = self._found.get(identity(state, profile))
        return None if found is None else sorted(found)

    def want(
        self, state: UpstreamState, profile: ModelProfile, sent: bytes, settings: Settings
    ) -> None:
        """
        Have it tried out, unless that was done.

        Args:
            sent: a request that was answered: it tells how the model is loaded, and for how long.
        """
        if state.spec.behaviour.continues is None:
            return
        key = identity(state, profile)
        if key in self._found or key in self._running or self._tries.get(key, 0) >= _MOST_TRIES:
            return
        self._running.add(key)
        task = self._spawn(self._try(key, state, profile, sent, settings), "resume probe")
        task.add_done_callback(lambda _: self._running.discard(key))

    async def _try(
        self,
        key: Identity,
        state: UpstreamState,
        profile: ModelProfile,
        sent: bytes,
        settings: Settings,
    ) -> None:
        await _quiet(state, settings.resume.probe_after_s)
        now = state.profile(profile.model)
        if now is None or now.reading.loaded is False or identity(state, now) != key:
            return  # nothing is loaded for this; the next answer has it tried again
        permit = await quiet_permit(state, profile.model)
        if permit is None:
            return
        if len(self._tries) > _MOST_KEPT:
            self._tries.clear()
        self._tries[key] = self._tries.get(key, 0) + 1
        probe = _Probe(self, state, profile, _base(state, profile, sent))
        try:
            async with asyncio.timeout(_LONGEST_S):
                proven = await probe.run()
        except _Disturbed:
            self._tries[key] -= 1  # the next answer has it tried again
            return
        except (TransportError, ValueError, OSError, TimeoutError) as exc:
            log.info(
                "a server could not be tried out",
                extra={"penstock": {"upstream": state.name, "why": str(exc)}},
            )
            return
        finally:
            permit.release()
        self._found[key] = proven
        while len(self._found) > _MOST_KEPT:
            self._found.popitem(last=False)
        log.info(
            "answers that break off are continued" if proven else "answers are not continued",
            extra={
                "penstock": {
                    "upstream": state.name,
                    "model": profile.model,
                    "proven": sorted(proven),
                }
            },
        )

    async def ask(
        self, state: UpstreamState, profile: ModelProfile, body: Mapping[str, Any]
    ) -> list[Piece]:
        """The pieces of the answer to one request."""
        loop = asyncio.get_running_loop()
        path = state.spec.behaviour.chat_path
        exchange = Exchange(
            id="",
            arrived_s=loop.time(),
            arrived_at=time.time(),
            method="POST",
            path=path,
            operation="chat",
            client="penstock",
            model=profile.model,
            upstream_model=profile.model,
            upstream=state.name,
            locality=Locality.LOCAL,
            profile=profile,
            stream=True,
        )
        self._begin(exchange)
        headers = local_headers([], state, path=path, key_is_ours=False, via=self._via)
        headers.append((b"content-type", b"application/json"))
        attempt = Attempt(state.name, loop.time())
        exchange.attempts.append(attempt)
        exchange.outcome = Outcome.IGNORED
        try:
            response = await self._transport.send(
                state.origin,
                UpstreamRequest(
                    b"POST", (state.prefix + path).encode("ascii"), headers, orjson.dumps(body)
                ),
                connect_timeout_s=5.0,
                head_timeout_s=None,
            )
            try:
                attempt.status = response.status
                if response.status != 200:
                    raise ValueError(f"the server answered {response.status}")
                native = state.spec.behaviour.chat_dialect == "ollama"
                framer: SseFramer | NdjsonFramer = NdjsonFramer() if native else SseFramer()
                events: list[bytes] = []
                while data := await response.next_chunk():
                    events += framer.feed(data)
                    if state.limiter.waiting:
                        raise _Disturbed
                    exchange.stage = "streaming"
            finally:
                response.close()
            exchange.outcome, exchange.status = Outcome.SUCCESS, 200
            return pieces_of(events, ndjson=native)
        finally:
            attempt.ended_s = exchange.ended_s = loop.time()
            exchange.stage = "done"
            self._finish(exchange)


class _Probe:
    """One server and model, tried out."""

    def __init__(
        self,
        proofs: Proofs,
        state: UpstreamState,
        profile: ModelProfile,
        base: dict[str, Any],
    ) -> None:
        self._proofs, self._state, self._profile = proofs, state, profile
        self._base = base
        behaviour = state.spec.behaviour
        self._fields = behaviour.continues or {}
        native = behaviour.chat_dialect == "ollama"
        self._thinking_field = "thinking" if native else behaviour.reasoning_field

    async def run(self) -> frozenset[Way]:
        """What is continued."""
        pieces = await self._ask(self._base)
        thinks = any(piece[0] for piece in pieces)
        proven: set[Way] = set()
        if thinks and await self._continues(pieces, in_text=False):
            proven.add("thinking")
        if any(piece[1] for piece in pieces):
            if await self._continues(pieces, in_text=True):
                proven.add("text after thinking" if thinks else "text")
        elif "thinking" in proven:
            # It thinks longer than a probe may: a text behind its thinking is begun for it.
            begun = Said(_BEGUN, resume.joined(pieces).thinking)
            rest = await self._go_on(begun)
            before: list[Piece] = [(begun.thinking, ""), ("", begun.text)]
            if not any(piece[0] for piece in rest) and await self._continues(
                [*before, *rest], in_text=True
            ):
                proven.add("text after thinking")
        return frozenset(proven)

    async def _ask(self, body: Mapping[str, Any]) -> list[Piece]:
        return await self._proofs.ask(self._state, self._profile, body)

    async def _continues(self, pieces: list[Piece], *, in_text: bool) -> bool:
        halves = resume.cut(pieces, in_text=in_text)
        if halves is None:
            return False
        beginning, rest = halves
        return resume.judge(beginning, rest, resume.joined(await self._go_on(beginning)))

    async def _go_on(self, said: Said) -> list[Piece]:
        body = resume.continuation(
            self._base,
            said._replace(tokens=0),
            fields=self._fields,
            thinking_field=self._thinking_field,
        )
        assert body is not None
        return await self._ask(body)


def _base(state: UpstreamState, profile: ModelProfile, sent: bytes) -> dict[str, Any]:
    native = state.spec.behaviour.chat_dialect == "ollama"
    options: dict[str, Any] = {}
    body: dict[str, Any] = {}
    if native:
        # Another window would have the model loaded anew, another time to stay would be the next one's to bear.
        loaded = orjson.loads(sent)
        given = loaded.get("options")
        if isinstance(given, dict):
            options = {n: given[n] for n in ("num_ctx", "num_gpu", "num_thread") if n in given}
        body = {"keep_alive": loaded["keep_alive"]} if "keep_alive" in loaded else {}
    return {**resume.probe_body(profile.model, native=native, options=options), **body}


async def _quiet(state: UpstreamState, for_s: float) -> None:
    """Wait until the server has had nothing to do for a while."""
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    while loop.time() - since_s < for_s:
        await asyncio.sleep(min(_QUIET_POLL_S, for_s / 4))
        if state.limiter.running or state.limiter.waiting:
            since_s = loop.time()
