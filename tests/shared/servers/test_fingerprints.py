"""Which kind of server answered: each one by its own marks, impostors told apart."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.domain.upstream import ServerKind
from penstock.servers import SPECS, spec
from penstock.servers.base import Answer, Match
from server_scenes import MODEL_SERVERS, SCENES, STRANGERS, Scene

_KEYS = sorted({probe.key for s in SPECS.values() for probe in s.probes})


def matches(answers: dict[str, Answer]) -> dict[ServerKind, Match]:
    """Every kind that takes the answers for its own, with how sure it is."""
    found = {kind: s.fingerprint(answers) for kind, s in SPECS.items()}
    return {kind: match for kind, match in found.items() if match is not None}


@pytest.mark.parametrize("scene", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_a_server_is_recognised(scene: Scene) -> None:
    """The kind that a server is has the highest confidence of all kinds, and alone."""
    found = matches(dict(scene.answers))
    assert scene.kind in found
    best = max(match.confidence for match in found.values())
    assert [k for k, m in found.items() if m.confidence == best] == [scene.kind]


@pytest.mark.parametrize("scene", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_nobody_else_is_sure(scene: Scene) -> None:
    """No other kind than the right one and the generic one takes a server for its own."""
    assert set(matches(dict(scene.answers))) <= {scene.kind, ServerKind.GENERIC}


# Penstock itself answers as the server behind it does; detection tells it by its header.
_OTHERS = [s for s in STRANGERS if s.name != "strangers/penstock"]


@pytest.mark.parametrize("scene", [pytest.param(s, id=s.name) for s in _OTHERS])
def test_a_stranger_is_no_model_server(scene: Scene) -> None:
    """A program that is no model server is not taken for one, whatever paths it answers."""
    assert matches(dict(scene.answers)) == {}


@pytest.mark.parametrize("scene", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_a_match_says_why(scene: Scene) -> None:
    """Every match has a reason for people and a confidence between 0 and 1."""
    for match in matches(dict(scene.answers)).values():
        assert match.because
        assert all(sentence.strip() for sentence in match.because)
        assert 0 < match.confidence < 1


@pytest.mark.parametrize("kind", [pytest.param(k, id=k) for k in ServerKind])
def test_what_is_recorded_is_said_so(kind: ServerKind) -> None:
    """A kind calls itself recorded exactly if a scene of it was recorded from the real server."""
    known = {s.knowledge for s in SCENES if s.kind is kind}
    assert known, "a kind without any scene"
    assert (spec(kind).knowledge == "recorded") == ("recorded" in known)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param("ollama/one_loaded", "0.17.4", id="Ollama"),
        pytest.param("llamacpp/two_slots", "b0-unknown", id="llama.cpp"),
        pytest.param("vllm/serving", "0.33.0", id="vLLM"),
        pytest.param("sglang/serving", "0.5.23", id="SGLang"),
        pytest.param("tgi/serving", "3.3.5", id="TGI"),
        pytest.param("koboldcpp/serving", "1.102", id="KoboldCpp, not its Ollama layer's 0.7.0"),
        pytest.param("localai/serving", "v3.8.0", id="LocalAI, not its Ollama layer's 0.9.0"),
        pytest.param("lemonade/serving", "9.1.0", id="Lemonade, not its Ollama layer's 0.16.1"),
    ],
)
def test_the_version_is_its_own(name: str, version: str) -> None:
    """The version told is the server's own and not that of an API which it imitates."""
    one = next(s for s in SCENES if s.name == name)
    assert one.kind is not None
    match = spec(one.kind).fingerprint(one.answers)
    assert match is not None
    assert match.version == version


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "4096", "llamacpp", "user", "²", "None"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "models", "id", "owned_by", "software", "name", "version", "router", "info",
                 "default_generation_settings", "total_slots", "error", "meta", "max_model_len",
                 "all_models_loaded", "recipe_options", "parameters", "model_info", "title"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip
_ANSWERS = st.builds(
    lambda status, server, value: Answer(status, {"server": server}, json.dumps(value).encode()),
    st.sampled_from([200, 204, 301, 401, 404, 500, 503]),
    st.sampled_from(["", "llama.cpp", "BaseHTTP/0.6", "nginx"]),
    _JSON,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), _ANSWERS, max_size=8))
def test_no_answer_breaks_a_reader(answers: dict[str, Answer]) -> None:
    """Whatever a stranger answers, fingerprints and readings of all kinds return and never raise."""
    for s in SPECS.values():
        s.fingerprint(answers)
        s.reading_probes(answers)
        s.read(answers)
        for answer in answers.values():
            s.busy_slots(answer)
