"""
Looks at a server: asks what its kind's file says to ask, and hands the answers to the pure parsers.

Control plane only (httpx); bodies are bounded, redirects not followed, no proxy for local addresses. Cloud
upstreams are never probed: callers see to that.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

import httpx

from penstock.adapters.control_client import make_client
from penstock.detection import fingerprint_probes, is_penstock, judge, recognise, relay_evidence
from penstock.detection.fingerprint import Recognition
from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind, Verdict
from penstock.servers import spec as spec_of
from penstock.servers.base import Answer, Answers, Probe, ServerSpec

_LARGEST_BYTES = 4 * 1024 * 1024
_MOST_ROUNDS = 3
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Look:
    """
    One look at a server.

    Attributes:
        reachable: something answered in HTTP.
        recognition: which kind, and why.
        reading: what it says of itself and its models, None when nothing could be read.
        error: one sentence when it was not reachable, is no model server, or would not say what it has.
        verdict: local or cloud, with what the probes added.
        is_penstock: it is a Penstock gateway.
        refused: the connection was refused: nobody listens there now.
    """

    url: str
    reachable: bool
    kind: ServerKind | None
    recognition: Recognition
    reading: ServerReading | None
    verdict: Verdict
    answers: Mapping[str, Answer] = field(default_factory=dict, repr=False)
    error: str | None = None
    is_penstock: bool = False
    refused: bool = False


async def look(
    url: str,
    *,
    client: httpx.AsyncClient,
    api_key: str | None = None,
    kind: ServerKind | None = None,
    timeout_s: float = 3.0,
    known: ServerKind | None = None,
) -> Look:
    """
    Look at the server at *url*.

    Args:
        url: normalised.
        kind: the user's declaration; nothing is fingerprinted then.
        known: what it was at the last look: asked first, and the rest only when it no longer matches.
        timeout_s: for each answer.
    """
    ask = _Asker(url, client, api_key, timeout_s)
    declared = kind
    if declared is not None:
        probes: tuple[Probe, ...] = spec_of(declared).probes
    elif known is not None:
        probes = spec_of(known).probes
    else:
        probes = fingerprint_probes()
    # One cheap question first: a port where nobody listens is asked once and not thirty times.
    answers = await ask.all(probes[:1])
    if not answers and ask.error is not None and ask.unreachable:
        return _absent(url, ask.error, refused=ask.refused)
    answers.update(await ask.all(probes[1:]))
    if not answers:
        return _absent(url, ask.error or "nothing answered in HTTP")
    recognition = recognise(answers)
    if declared is None and known is not None and recognition.kind is not known:
        answers.update(await ask.all(p for p in fingerprint_probes() if p.key not in answers))
        recognition = recognise(answers)
    found = declared or recognition.kind
    if is_penstock(answers):
        return Look(
            url, True, None, recognition, None, judge(url), answers,
            "this is a Penstock gateway, not a model server", True,
        )  # fmt: skip
    # That a known kind of server answers makes nothing local, but it may be worth a suggestion.
    seen = recognition.evidence[:1] if recognition.kind not in (None, ServerKind.GENERIC) else ()
    verdict = judge(
        url, evidence=(*relay_evidence(answers), *(replace(e, decisive=False) for e in seen))
    )
    if found is None:
        return Look(
            url, True, None, recognition, None, verdict, answers,
            "something answers there, but it is no model server that is known",
        )  # fmt: skip
    reading = await _read(ask, spec_of(found), answers)
    error = None
    if not reading.models and any(a.status in (401, 403) for a in answers.values()):
        error = "it refuses the key" if api_key else "it asks for a key"
    return Look(url, True, found, recognition, reading, verdict, answers, error)


async def _read(ask: _Asker, spec: ServerSpec, answers: dict[str, Answer]) -> ServerReading:
    """Ask until the kind's file has no more questions."""
    for _ in range(_MOST_ROUNDS):
        missing = [p for p in spec.reading_probes(answers) if p.key not in answers]
        if not missing:
            break
        fresh = await ask.all(missing)
        answers.update(fresh)
        if not fresh:
            break
    return spec.read(answers)


async def ready(
    url: str, spec: ServerSpec, *, client: httpx.AsyncClient, api_key: str | None = None
) -> bool | None:
    """True when the server is ready, False while it loads, None when nothing answers."""
    probe = spec.behaviour.readiness or Probe("/v1/models")
    ask = _Asker(url, client, api_key, 5.0)
    answers = await ask.all((probe,))
    answer = answers.get(probe.key)
    if answer is None:
        return None
    return answer.status < 500


@dataclass(frozen=True, slots=True)
class Pulse:
    """
    The answer to one cheap question.

    Attributes:
        response_s: how long it took; None without an answer.
        refused: nobody listens there.
        ready: it does not say that it loads.
        asked: it was asked at all; False when this process had no descriptor left to ask with.
    """

    response_s: float | None
    refused: bool = False
    ready: bool = True
    asked: bool = True


async def pulse(
    url: str,
    spec: ServerSpec,
    *,
    client: httpx.AsyncClient,
    api_key: str | None = None,
    timeout_s: float,
) -> Pulse:
    """Ask the server at *url* the cheapest question that its kind has."""
    probe = spec.behaviour.readiness or Probe("/v1/models")
    ask = _Asker(url, client, api_key, timeout_s)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    answers = await ask.all((probe,))
    took_s = loop.time() - began_s
    answer = answers.get(probe.key)
    if answer is None:
        return Pulse(None, ask.refused, ready=False, asked=not ask.out_of_descriptors)
    return Pulse(took_s, ready=answer.status < 500)


async def absence(
    url: str, spec: ServerSpec, *, client: httpx.AsyncClient, api_key: str | None = None
) -> Literal["refused", "loading"] | None:
    """
    Whether the server is away just now: nobody listens, or it says that it loads. None when it is there,
    also when it is slow.
    """
    probe = spec.behaviour.readiness or Probe("/v1/models")
    base = "http://localhost" if url.startswith("unix:") else url
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with client.stream("GET", base + probe.path, headers=headers, timeout=5.0) as answer:
            return "loading" if answer.status_code == 503 else None
    except httpx.ConnectError:
        return "refused"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return None


async def busy(
    url: str, spec: ServerSpec, *, client: httpx.AsyncClient, api_key: str | None = None
) -> int | None:
    """Slots that are working, None when the server does not say."""
    probe = spec.behaviour.busy_probe
    if probe is None:
        return None
    answers = await _Asker(url, client, api_key, 2.0).all((probe,))
    answer = answers.get(probe.key)
    return None if answer is None else spec.busy_slots(answer)


async def ask(
    url: str,
    question: Probe,
    *,
    client: httpx.AsyncClient,
    api_key: str | None = None,
    timeout_s: float = 5.0,
) -> Answer | None:
    """The answer to one request, None when there is none."""
    answers = await _Asker(url, client, api_key, timeout_s).all((question,))
    return answers.get(question.key)


def _absent(url: str, error: str, *, refused: bool = False) -> Look:
    nothing = Recognition(None, 0.0, ())
    return Look(url, False, None, nothing, None, judge(url), {}, error, refused=refused)


class _Asker:
    """Asks one server, a few questions at a time."""

    def __init__(
        self, url: str, client: httpx.AsyncClient, api_key: str | None, timeout_s: float
    ) -> None:
        self._base = "http://localhost" if url.startswith("unix:") else url
        self._client = client
        self._headers = {"accept": "application/json, text/plain;q=0.5, */*;q=0.1"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.error: str | None = None
        self.unreachable = False
        self.refused = False
        self.out_of_descriptors = False

    async def all(self, probes: Iterable[Probe]) -> dict[str, Answer]:
        wanted = list(probes)
        answers = await asyncio.gather(*(self._one(probe) for probe in wanted))
        return {
            probe.key: answer
            for probe, answer in zip(wanted, answers, strict=True)
            if answer is not None
        }

    async def _one(self, probe: Probe) -> Answer | None:
        async with self._room:
            try:
                async with self._client.stream(
                    probe.method,
                    self._base + probe.path,
                    json=probe.body if probe.body is not None else None,
                    headers=self._headers,
                    timeout=self._timeout_s,
                ) as response:
                    body = b""
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > _LARGEST_BYTES:
                            return None
                    headers = {k.lower(): v for k, v in response.headers.items()}
                    return Answer(response.status_code, headers, body)
            except httpx.ConnectError as exc:
                self.unreachable = True
                self.out_of_descriptors = _out_of_descriptors(exc)
                self.refused = not self.out_of_descriptors
                self.error = f"cannot connect to {_shown(self._base)}: {exc or 'refused'}"
            except httpx.ConnectTimeout:
                self.unreachable = True
                self.error = f"no connection to {_shown(self._base)} within {self._timeout_s:g} s"
            except httpx.TimeoutException:
                self.error = f"no answer from {_shown(self._base)} within {self._timeout_s:g} s"
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
                self.error = f"{_shown(self._base)}: {exc or type(exc).__name__}"
        return None


def _out_of_descriptors(exc: BaseException | None) -> bool:
    """Whether that is what lies at the bottom of a failed connect; httpx tells only of the failure."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _shown(url: str) -> str:
    return urlsplit(url).netloc or url


__all__ = ["Answers", "Look", "ask", "busy", "look", "make_client", "ready"]
