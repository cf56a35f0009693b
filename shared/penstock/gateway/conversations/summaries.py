"""
The strategy `summary`: what a cut leaves out is summarised by the model itself, outside the request path.

A summary is prepared when a conversation nears its mark, by what the next cut would leave out; while none
is ready, the fixed note of `window` stands in its place. Kept by the hash of what it summarises, per client,
in memory, and on disk only when a folder is set. The requests for it are recorded like any other, with the
client `penstock`, and take a permit only when nobody waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from penstock import compress
from penstock.adapters.files import write_atomically
from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.concurrency import Ask
from penstock.dialects.surfaces import OPENAI
from penstock.domain.fault import Outcome
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import Locality
from penstock.errors import PenstockError, Refused
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.relays.choose_relay import make_relay
from penstock.gateway.steps.limiter import Permit
from penstock.gateway.steps.translate import chat_work, translation_of
from penstock.gateway.steps.tune import tune
from penstock.gateway.steps.upstream_headers import local_headers
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings

log = logging.getLogger("penstock.summaries")

_MOST_KEPT = 512
_MOST_FILES = 4096
_MOST_WANTED = 32
"""Summaries on their way. Each holds a conversation's messages, for minutes where the server is never idle."""
_LONGEST_SUMMARY = 16_384
_FILE = re.compile(r"[0-9a-f]{32}\.txt")
_POLL_S = 0.25
_PATIENCE_S = 600.0
_LARGEST_ANSWER_BYTES = 4 * 1024 * 1024


class Summaries:
    """
    Summaries of what cuts left out.

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
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._wanted: set[str] = set()

    def text(self, client: str, cut_key: str, folder: str | None) -> str | None:
        """The summary of what a cut left out of a conversation of *client*; None while there is none."""
        key = _key(client, cut_key)
        found = self._kept.get(key)
        if found is None and folder is not None and key not in self._wanted:
            found = _read(Path(folder) / f"{key}.txt")
            if found is not None:
                self._keep(key, found, None)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def want(
        self,
        client: str,
        cut_key: str,
        dropped: Sequence[Mapping[str, Any]],
        state: UpstreamState,
        profile: ModelProfile,
        settings: Settings,
    ) -> None:
        """Have a summary made, unless it is there or on its way, or too many are on their way."""
        key = _key(client, cut_key)
        if key in self._kept or key in self._wanted or not dropped:
            return
        if len(self._wanted) >= _MOST_WANTED:
            return
        self._wanted.add(key)
        task = self._spawn(self._make(key, list(dropped), state, profile, settings), "summary")
        task.add_done_callback(lambda _: self._wanted.discard(key))

    async def _make(
        self,
        key: str,
        dropped: list[Mapping[str, Any]],
        state: UpstreamState,
        profile: ModelProfile,
        settings: Settings,
    ) -> None:
        permit = await quiet_permit(state, profile.model)
        if permit is None:
            return
        loop = asyncio.get_running_loop()
        exchange = Exchange(
            id="",
            arrived_s=loop.time(),
            arrived_at=time.time(),
            method="POST",
            path="/v1/chat/completions",
            operation="chat",
            client="penstock",
            model=profile.model,
            upstream_model=profile.model,
            upstream=state.name,
            locality=Locality.LOCAL,
            profile=profile,
        )
        self._begin(exchange)
        try:
            text = await self._ask(exchange, dropped, state, profile, settings)
            exchange.outcome, exchange.status = Outcome.SUCCESS, 200
            if text:
                self._keep(key, text[:_LONGEST_SUMMARY], settings.context.summary_folder)
        except (PenstockError, TransportError, ValueError, OSError, TimeoutError) as exc:
            exchange.outcome = Outcome.IGNORED
            log.warning(
                "a summary could not be made", extra={"upstream": state.name, "why": str(exc)}
            )
        finally:
            permit.release()
            exchange.ended_s = loop.time()
            exchange.stage = "done"
            self._finish(exchange)

    async def _ask(
        self,
        exchange: Exchange,
        dropped: list[Mapping[str, Any]],
        state: UpstreamState,
        profile: ModelProfile,
        settings: Settings,
    ) -> str:
        asked = compress.summary_request(dropped, window=profile.window.tokens)
        work = chat_work({"model": profile.model, **asked})
        tuned = tune(
            work,
            upstream_model=profile.model,
            profile=profile,
            spec=state.spec,
            settings=settings,
        )
        headers = local_headers([], state, path=tuned.path, key_is_ours=False, via=self._via)
        headers.append((b"content-type", b"application/json"))
        attempt = Attempt(state.name, asyncio.get_running_loop().time())
        exchange.attempts.append(attempt)
        exchange.stage = "forwarding"
        async with asyncio.timeout(settings.timeouts.first_token_s):
            response = await self._transport.send(
                state.origin,
                UpstreamRequest(
                    b"POST", (state.prefix + tuned.path).encode("ascii"), headers, tuned.body
                ),
                connect_timeout_s=settings.timeouts.connect_s,
                head_timeout_s=None,
            )
            try:
                attempt.status = response.status
                if response.status != 200:
                    raise ValueError(f"the server answered {response.status}")
                if not tuned.streams:
                    whole = await response.read(_LARGEST_ANSWER_BYTES)
                else:
                    relay = make_relay(
                        tuned,
                        exchange,
                        OPENAI,
                        lambda: None,
                        translation=translation_of(work, tuned.chat, exchange),
                    )
                    while data := await response.next_chunk():
                        relay.feed(data)
                    whole = relay.end()
                    exchange.prompt_tokens = relay.seen.prompt_tokens
                    exchange.completion_tokens = relay.seen.completion_tokens
                    exchange.cached_tokens = relay.seen.cached_tokens
            finally:
                attempt.ended_s = asyncio.get_running_loop().time()
                response.close()
        return _content(whole)

    def _keep(self, key: str, text: str, folder: str | None) -> None:
        self._kept[key] = text
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        if folder is not None:
            write_atomically(Path(folder) / f"{key}.txt", text.encode("utf-8"))
            _forget_oldest(Path(folder))


async def quiet_permit(state: UpstreamState, model: str) -> Permit | None:
    """A permit that nobody else wants just now; None when there is none for a long time."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + _PATIENCE_S
    while loop.time() < give_up_s:
        is_open = state.gate.refusing is None and not state.holding.reasons
        if is_open and state.limiter.free and not state.limiter.waiting:
            with contextlib.suppress(Refused):  # free for a moment, or kept for somebody
                return await state.limiter.acquire(
                    Ask(client="penstock", model=model), deadline_s=1.0
                )
        await asyncio.sleep(_POLL_S)
    return None


def _content(body: bytes) -> str:
    answer = orjson.loads(body)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    content = message.get("content") if isinstance(message, dict) else None
    return content.strip() if isinstance(content, str) else ""


def _key(client: str, cut_key: str) -> str:
    return hashlib.blake2b(f"{client}\0{cut_key}".encode(), digest_size=16).hexdigest()


def _forget_oldest(folder: Path) -> None:
    """Keep the number of files bounded; other files that a user has there are not ours to count."""
    ours = [path for path in folder.glob("*.txt") if _FILE.fullmatch(path.name)]
    if len(ours) <= _MOST_FILES:
        return
    ours.sort(key=lambda path: path.stat().st_mtime)
    for path in ours[: len(ours) - _MOST_FILES * 7 // 8]:
        path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
