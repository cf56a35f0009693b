"""What answers there, whether it only relays to a cloud, and where to look for it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from penstock.detection import (
    fingerprint_probes,
    is_penstock,
    judge,
    places,
    recognise,
    relay_evidence,
)
from penstock.domain.upstream import ServerKind
from penstock.servers import SPECS
from penstock.servers.base import Answer
from server_scenes import MODEL_SERVERS, STRANGERS, Scene, scene


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_every_kind_is_recognised(one: Scene) -> None:
    """A server is recognised as what it is, with the reasons for people first."""
    found = recognise(one.answers)
    assert found.kind is one.kind
    assert found.evidence[0].says == one.kind
    assert found.confidence > (0.2 if one.kind is ServerKind.GENERIC else 0.6)


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in STRANGERS])
def test_strangers_are_nothing(one: Scene) -> None:
    """What is no model server has no kind; Penstock is known by its header."""
    assert is_penstock(one.answers) is (one.name == "strangers/penstock")
    if not is_penstock(one.answers):
        assert recognise(one.answers).kind is None


def test_no_answers_are_nothing() -> None:
    """Silence is no server."""
    assert recognise({}).kind is None
    assert is_penstock({}) is False
    assert relay_evidence({}) == ()


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_a_kind_knows_itself_by_its_own_probes(one: Scene) -> None:
    """With only the probes of the kind itself, as at a refresh, a server is still recognised."""
    assert one.kind is not None
    own = {p.key: one.answers[p.key] for p in SPECS[one.kind].probes}
    assert recognise(own).kind is one.kind


def test_each_question_is_asked_once() -> None:
    """The probes of all kinds hold no question twice, read only, and none changes anything."""
    probes = fingerprint_probes()
    assert len({p.key for p in probes}) == len(probes) <= 25
    assert {p.method for p in probes} == {"GET"}


def _listing(*owners: str, headers: Mapping[str, str] | None = None) -> dict[str, Answer]:
    rows = [{"id": f"m{n}", "object": "model", "owned_by": o} for n, o in enumerate(owners)]
    body = json.dumps({"object": "list", "data": rows}).encode()
    return {"GET /v1/models": Answer(200, headers or {}, body)}


@pytest.mark.parametrize(
    ("answers", "relays"),
    [
        pytest.param(_listing("openai", "openai"), True, id="LiteLLM: all models are OpenAI's"),
        pytest.param(_listing("openai", "anthropic", "google"), True, id="models of several clouds"),
        pytest.param(_listing("openai", "me"), False, id="one model is its own"),
        pytest.param(_listing("library"), False, id="Ollama's own namespace"),
        pytest.param(_listing(), False, id="no models at all"),
        pytest.param(_listing("me", headers={"openai-organization": "x"}), True, id="OpenAI's header"),
        pytest.param(_listing("me", headers={"x-litellm-version": "1"}), True, id="LiteLLM's header"),
        pytest.param(_listing("me", headers={"cf-ray": "1"}), False, id="a tunnel's header proves nothing"),
        pytest.param(_listing("me", headers={"server": "cloudflare"}), False, id="a front end proves nothing"),
    ],
)  # fmt: skip
def test_relays(answers: dict[str, Answer], relays: bool) -> None:
    """A port on this machine that only relays to clouds counts as cloud."""
    verdict = judge("http://127.0.0.1:4000", evidence=relay_evidence(answers))
    assert verdict.is_local is not relays


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_no_model_server_is_a_relay(one: Scene) -> None:
    """No known model server is taken for a relay."""
    assert relay_evidence(one.answers) == ()


@pytest.mark.parametrize("namespace", ["google", "openai", "anthropic"])
def test_a_namespace_is_no_cloud(namespace: str) -> None:
    """Ollama's owner is a namespace: `hf.co/google/...` runs here all the same."""
    answers = {**scene("ollama/one_loaded").answers, **_listing(namespace)}
    assert relay_evidence(answers) == ()


def _urls(environ: dict[str, str], **more: object) -> dict[str, str]:
    return {place.url: place.why for place in places(environ, **more)}  # type: ignore[arg-type]


def test_every_usual_port_is_looked_at() -> None:
    """Without any hint, the usual port of each kind on loopback is a place to look, each once."""
    found = _urls({})
    for spec in SPECS.values():
        for port in spec.ports:
            assert f"http://127.0.0.1:{port}" in found
    assert all(url.startswith("http://127.0.0.1:") for url in found)
    assert len(found) == len({port for spec in SPECS.values() for port in spec.ports})


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        pytest.param({"OLLAMA_HOST": "192.168.1.9:11500"}, "http://192.168.1.9:11500", id="host and port"),
        pytest.param({"OLLAMA_HOST": "gpu-box"}, "http://gpu-box:11434", id="a host only"),
        pytest.param({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434", id="an address to listen on"),
        pytest.param({"OLLAMA_HOST": "0.0.0.0:8081"}, "http://127.0.0.1:8081", id="... with a port"),
        pytest.param({"OLLAMA_HOST": ":8081"}, "http://127.0.0.1:8081", id="a port only"),
        pytest.param({"OLLAMA_HOST": "[::]:8081"}, "http://127.0.0.1:8081", id="IPv6, to listen on"),
        pytest.param({"OLLAMA_HOST": "[::1]"}, "http://[::1]:11434", id="IPv6 in brackets"),
        pytest.param({"OLLAMA_HOST": "::1"}, "http://[::1]:11434", id="IPv6 without brackets"),
        pytest.param({"OLLAMA_HOST": "http://gpu-box"}, "http://gpu-box:80", id="http means 80"),
        pytest.param({"OLLAMA_HOST": "https://gpu-box"}, "https://gpu-box:443", id="https means 443"),
        pytest.param({"OLLAMA_HOST": "http://gpu-box:1/base"}, "http://gpu-box:1/base", id="a path"),
        pytest.param({"OLLAMA_HOST": "gpu-box/base"}, "http://gpu-box:11434/base", id="a path, no port"),
        pytest.param({"OLLAMA_HOST": "unix:///run/o.sock"}, "unix:///run/o.sock", id="a socket"),
        pytest.param({"OPENAI_BASE_URL": "http://localhost:8123/v1"}, "http://localhost:8123", id="OPENAI_BASE_URL"),
        pytest.param({"OPENAI_API_BASE": "http://10.0.0.5/v1/"}, "http://10.0.0.5", id="OPENAI_API_BASE"),
        pytest.param({"LLAMA_ARG_PORT": "8099"}, "http://127.0.0.1:8099", id="llama.cpp's own variable"),
    ],
)  # fmt: skip
def test_places_named_by_the_environment(environ: dict[str, str], url: str) -> None:
    """What other programs' variables name is looked at first, and the reason names the variable."""
    found = _urls(environ)
    (name,) = environ
    assert next(iter(found)) == url
    assert name in found[url]


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"OPENAI_BASE_URL": "https://api.openai.com/v1"}, id="a cloud"),
        pytest.param({"OPENAI_BASE_URL": "http://localhost@evil.example"}, id="a trick"),
        pytest.param({"OLLAMA_HOST": "https://ollama.com"}, id="Ollama's cloud"),
        pytest.param({"OLLAMA_HOST": "   "}, id="blanks"),
        pytest.param({"OLLAMA_HOST": "http://[bad"}, id="no URL"),
        pytest.param({"LLAMA_ARG_PORT": "eighty"}, id="no port"),
        pytest.param({"LLAMA_ARG_PORT": "99999"}, id="a port too high"),
    ],
)
def test_places_that_are_not_looked_at(environ: dict[str, str]) -> None:
    """Clouds are never probed, and a variable that makes no sense is passed over."""
    assert _urls(environ) == _urls({})


def test_the_docker_host_is_looked_at_from_a_container() -> None:
    """Inside a container the machine around it is looked at too, and only there."""
    assert "http://host.docker.internal:11434" in _urls({}, in_container=True)
    assert not any("docker" in url for url in _urls({}))


def test_more_ports_can_be_named() -> None:
    """Ports from the settings are looked at, a usual one not twice."""
    found = _urls({}, extra_ports=(9999, 11434))
    assert "http://127.0.0.1:9999" in found
    assert list(found).count("http://127.0.0.1:11434") == 1
