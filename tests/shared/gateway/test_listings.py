"""Listings in each dialect's shape, as the official clients read them: windows, aliases, abilities."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import ollama
import pytest
from anthropic.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.profile import Capabilities, ModelProfile, ModelReading, Window, WindowSource
from penstock.domain.upstream import Locality, ServerKind, Upstream
from penstock.gateway.upstreams.resolve import Candidate, resolve
from penstock.gateway.views.listed_aliases import alias_of, listed_aliases, listed_name
from penstock.gateway.views.listing_shapes import (
    Entry,
    anthropic_listing,
    anthropic_model,
    openai_model,
)
from penstock.gateway.views.ollama_shapes import (
    SPOKEN_VERSION,
    ollama_ps,
    ollama_show,
    ollama_tags,
    ollama_version,
)
from scene_server import SceneServer
from scripted import ScriptedLlama, gateway_here
from server_scenes import scene

LOCAL, CLOUD = Locality.LOCAL, Locality.CLOUD


def entry(id: str = "org/m:7b", *, window: int = 6144, model: str = "", **reading: Any) -> Entry:
    """A local model."""
    given_reading = ModelReading(model or id, trained_window=131_072, **reading)
    profile = ModelProfile(
        "box", ServerKind.LLAMACPP, given_reading, Window(window, WindowSource.RUNNING)
    )
    return Entry(id, "box", profile, model)


def continues_parameters(text: str) -> dict[str, str]:
    """What Continue reads of `parameters`: each line must match, or it gives up."""
    found = [re.match(r'^(\S+)\s+((?:".*")|\S+)$', line) for line in text.split("\n")]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


OLLAMAS = {
    "modelfile": "FROM x", "parameters": 'stop                           "<|im_end|>"\nnum_ctx 2048',
    "template": "{{ .Prompt }}{{ .Suffix }}", "details": {"family": "qwen3"}, "capabilities": ["completion", "insert"],
    "model_info": {"general.architecture": "qwen3", "general.basename": "Qwen3", "qwen3.context_length": 40960, "clip.context_length": 77},
}  # fmt: skip


@pytest.mark.parametrize("own", [None, OLLAMAS], ids=["of another server", "of a real Ollama"])
def test_show_has_the_running_window_for_everybody(own: dict[str, Any] | None) -> None:
    """Continue's `num_ctx`, VS Code's `<architecture>.context_length`, and never the trained window."""
    answer = ollama_show(entry(), own)
    shown = ollama.ShowResponse.model_validate(answer)
    assert shown.modelinfo is not None
    lengths = {v for k, v in shown.modelinfo.items() if k.endswith(".context_length")}
    assert lengths == {6144}
    assert f"{shown.modelinfo['general.architecture']}.context_length" in shown.modelinfo
    assert continues_parameters(shown.parameters or "")["num_ctx"] == "6144"
    if own is not None:
        assert (shown.template, shown.capabilities) == (own["template"], own["capabilities"])
        assert continues_parameters(shown.parameters or "")["stop"] == '"<|im_end|>"'
        assert own["parameters"].endswith("2048")


@pytest.mark.parametrize(
    ("abilities", "words"),
    [
        pytest.param(Capabilities(), ["completion", "tools"], id="nothing is known: it may be tried"),
        pytest.param(Capabilities(tools=False), ["completion"], id="no tools"),
        pytest.param(Capabilities(True, True, True, False, True), ["completion", "tools", "vision", "thinking"], id="everything"),
        pytest.param(Capabilities(embeddings=True), ["embedding"], id="embeddings only"),
    ],
)  # fmt: skip
def test_show_says_what_a_model_can(abilities: Capabilities, words: list[str]) -> None:
    """In Ollama's words; LiteLLM looks for tools in the template."""
    answer = ollama_show(entry(capabilities=abilities), None)
    assert answer["capabilities"] == words
    assert ("tools" in answer["template"].lower()) == ("tools" in words)
    assert answer["model_info"]["general.basename"] == "m:7b"


def test_show_of_a_known_shape() -> None:
    """What is known of the model stands where Ollama has it."""
    shape = {
        "general.architecture": "qwen3",
        "qwen3.block_count": 36,
        "qwen3.context_length": 40960,
    }
    answer = ollama_show(
        entry(shape=shape, parameter_count=8.2, details={"family": "qwen3", "quantization": "Q4_K_M"}), None
    )  # fmt: skip
    info = answer["model_info"]
    assert (info["qwen3.block_count"], info["qwen3.context_length"]) == (36, 6144)
    assert info["general.parameter_count"] == 8_200_000_000
    details = ollama.ShowResponse.model_validate(answer).details
    assert details is not None
    assert (details.family, details.parameter_size, details.quantization_level) == (
        "qwen3",
        "8.2B",
        "Q4_K_M",
    )


def test_show_of_a_cloud_model() -> None:
    """Its documented window, or none; never an invalid body."""
    shown = ollama.ShowResponse.model_validate(ollama_show(Entry("gpt-4o", "c", None), None))
    assert (shown.modelinfo or {})["llama.context_length"] == 128_000
    unknown = ollama_show(Entry("house-made", "c", None), None)
    assert ollama.ShowResponse.model_validate(unknown).parameters is None


def test_tags_and_ps() -> None:
    """The official client reads them; a digest can be cut to 12 characters, a model that is loaded stays."""
    entries = [entry(), entry("cold", loaded=False), entry("own", details={"digest": "0123456789ab"}), Entry("gpt-4o", "c", None)]  # fmt: skip
    tags = ollama.ListResponse.model_validate(ollama_tags(entries)).models
    assert [tag.model for tag in tags] == ["org/m:7b", "cold", "own", "gpt-4o"]
    assert all(len(tag.digest or "") >= 12 for tag in tags)
    assert tags[2].digest == "0123456789ab"
    assert ollama_tags(entries) == ollama_tags(entries)
    running = ollama.ProcessResponse.model_validate(ollama_ps(entries)).models
    assert [(model.model, model.context_length) for model in running] == [
        ("org/m:7b", 6144),
        ("own", 6144),
    ]
    assert running[0].expires_at is not None
    assert running[0].expires_at.year > 2300


def test_a_version_that_is_new_enough() -> None:
    """The Ollama's own behind, else the one whose API is spoken; VS Code wants 0.6.4."""
    assert ollama_version("0.6.8") == {"version": "0.6.8"}
    assert ollama_version(None) == {"version": SPOKEN_VERSION}
    assert tuple(map(int, SPOKEN_VERSION.split("."))) >= (0, 6, 4)


def test_anthropics_shape() -> None:
    """The official client reads it: the window as its input limit, the target as what is shown."""
    listed = [entry("claude-m", model="org/m:7b"), Entry("claude-sonnet-4-5", "c", None)]
    answer = anthropic_listing(listed)
    models = [ModelInfo.model_validate(model) for model in answer["data"]]
    assert [(m.id, m.display_name) for m in models] == [
        ("claude-m", "org/m:7b"),
        ("claude-sonnet-4-5",) * 2,
    ]
    assert models[0].max_input_tokens == 6144
    assert answer["data"][0]["context_window"] == 6144
    assert (answer["has_more"], answer["first_id"], answer["last_id"]) == (
        False,
        "claude-m",
        "claude-sonnet-4-5",
    )
    assert anthropic_listing([]) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_output_limits_are_told_where_they_are_documented() -> None:
    """Under each dialect's name; an alias has those of its target."""
    for listed in (Entry("gpt-4o", "c", None), Entry("mine", "c", None, "gpt-4o")):
        told = openai_model(listed)
        assert told["context_window"] == 128_000
        assert told["max_output_tokens"] == told["max_completion_tokens"] > 0
        assert anthropic_model(listed)["max_tokens"] == told["max_output_tokens"]
    assert "max_output_tokens" not in openai_model(entry())


# --- Aliases ---

A = Candidate("a", LOCAL, ("qwen3-coder:30b", "org/m", "x:latest", "claude-own"))
B = Candidate("b", LOCAL, ("org/m", "other"))
C = Candidate("c", CLOUD, ("gpt-4o",))


@pytest.mark.parametrize(
    ("aliases", "listed"),
    [
        pytest.param({"mine": "org/m"}, [("mine", "a", "org/m")], id="a name"),
        pytest.param({"claude-*": "qwen3-coder:30b"}, [("claude-qwen3-coder-30b", "a", "qwen3-coder:30b")], id="a pattern"),
        pytest.param({"*-local": "org/m"}, [("org-m-local", "a", "org/m")], id="a pattern with its end"),
        pytest.param({"gpt-*": "b/org/m"}, [("gpt-org-m", "b", "org/m")], id="a target at an upstream"),
        pytest.param({"gpt-*": "x"}, [("gpt-x-latest", "a", "x:latest")], id="a target without its tag"),
        pytest.param({"claude-*": "c/gpt-4o"}, [("claude-gpt-4o", "c", "gpt-4o")], id="a target in a cloud"),
        pytest.param({"mine": "my-*", "my-*": "other"}, [("mine", "b", "other"), ("my-other", "b", "other")], id="a name for a pattern"),
        pytest.param({"one": "two", "two": "other"}, [("one", "b", "other"), ("two", "b", "other")], id="an alias of an alias"),
        pytest.param({"c*": "other", "claude-*": "org/m"}, [("cother", "b", "other")], id="an earlier pattern takes it"),
        pytest.param({"claude-*": "org/m", "c*": "other"}, [("claude-org-m", "a", "org/m"), ("cother", "b", "other")], id="the narrower one first"),
        pytest.param({"claude-*": "own", "own": "other"}, [("claude-other", "b", "other"), ("own", "b", "other")], id="both"),
        pytest.param({"other": "org/m"}, [], id="a model has that id"),
        pytest.param({"claude-*": "absent"}, [], id="a target that is not there"),
        pytest.param({"a": "b", "b": "a"}, [], id="a circle"),
        pytest.param({"c?aude-*": "org/m", "*-*": "org/m", "[ab]*": "org/m"}, [], id="patterns without an obvious id"),
    ],
)  # fmt: skip
def test_under_which_ids_aliases_are_listed(
    aliases: dict[str, str], listed: list[tuple[str, str, str]]
) -> None:
    """A pattern under its target's id in the place of its star, if that leads back to the target."""
    found = [(name, to.upstream, to.model) for name, to in listed_aliases(aliases, [A, B, C])]
    assert found == listed


def test_an_alias_that_is_not_listed_is_known_nevertheless() -> None:
    """Clients ask for a model by the name that they were configured with."""
    aliases = {"claude-*": "other"}
    leads = alias_of("claude-sonnet-4-5-20250929", aliases, [A, B, C])
    assert leads is not None
    assert (leads.upstream, leads.model) == ("b", "other")
    assert alias_of("other", aliases, [A, B, C]) is None
    assert alias_of("nobody", aliases, [A, B, C]) is None


NAMES = st.sampled_from(["claude-*", "c*", "*", "gpt-*", "mine", "*-x", "a?", "other", "org/*"])
TARGETS = st.sampled_from(
    ["org/m", "other", "qwen3-coder:30b", "b/org/m", "c/gpt-4o", "mine", "x", "absent"]
)


@given(st.dictionaries(NAMES, TARGETS, max_size=4))
def test_what_is_listed_leads_to_its_target(aliases: dict[str, str]) -> None:
    """Whatever the aliases: a listed id is one that a request may name, and it goes where the listing says."""
    for name, leads in listed_aliases(aliases, [A, B, C]):
        found = resolve(name, upstreams=[A, B, C], aliases=aliases)
        assert (found.upstream, found.model) == (leads.upstream, leads.model)
        assert "*" not in name


def test_an_id_of_odd_characters() -> None:
    """Whatever a model is called, its alias has letters, digits, dots and dashes only."""
    assert listed_name("claude-*", "/models/Qwen 3 (Q4).gguf") == "claude-models-Qwen-3-Q4-.gguf"


# --- On the path ---


def test_listings_of_a_gateway() -> None:
    """In front of a llama.cpp: each client gets its shape, each alias the window of its target."""
    settings = {"routing": {"aliases": {"claude-*": "m", "gpt-4": "m", "other-*": "big"}}}

    async def main() -> None:
        async with (
            ScriptedLlama(window=6144) as one,
            ScriptedLlama(window=2048) as two,
            gateway_here([Upstream("box", one.url), Upstream("pod", two.url)], settings=settings) as gateway,
        ):  # fmt: skip
            two.model = "big"
            get = gateway.http.get
            data = (await get("/v1/models")).json()["data"]
            windows = {model["id"]: model["context_window"] for model in data}
            assert windows == {
                "m": 6144,
                "big": 2048,
                "claude-m": 6144,
                "gpt-4": 6144,
                "other-big": 2048,
            }
            assert next(m for m in data if m["id"] == "gpt-4")["root"] == "m"
            assert (await get("/v1/models?client_version=0.169.0")).json()["models"] == []
            assert "models" not in (await get("/v1/models")).json()

            asks = {"anthropic-version": "2023-06-01"}
            listed = (await get("/v1/models?limit=1000", headers=asks)).json()
            assert [model["id"] for model in listed["data"]] == list(windows)
            named = await get("/v1/models/claude-sonnet-4-5", headers=asks)
            assert ModelInfo.model_validate(named.json()).max_input_tokens == 6144
            absent = await get("/v1/models/absent", headers=asks)
            assert (absent.status_code, absent.json()["type"]) == (404, "error")
            assert (await get("/v1/models/claude-sonnet-4-5")).json()["root"] == "m"
            assert (await get("/upstream/pod/v1/models/claude-x")).status_code == 404

            async with ollama.AsyncClient(host=gateway.url, trust_env=False) as client:
                assert {tag.model for tag in (await client.list()).models} == set(windows)
                assert {m.context_length for m in (await client.ps()).models} == {6144, 2048}
                for name in ("m", "claude-anything"):
                    shown = await client.show(name)
                    assert (shown.modelinfo or {})["llama.context_length"] == 6144
                with pytest.raises(ollama.ResponseError, match="absent"):
                    await client.show("absent")
            assert (await get("/api/version")).json() == {"version": SPOKEN_VERSION}
            head = await gateway.http.head("/api/version")
            assert (head.status_code, head.content) == (200, b"")

    asyncio.run(main())


def test_listings_in_front_of_an_ollama() -> None:
    """Its own answers and version, with the running window; an alias is asked about by its target's id."""
    settings = {"routing": {"aliases": {"claude-*": "org/tiny-tools:v1"}}}

    async def main() -> None:
        async with (
            SceneServer(scene("ollama/one_loaded")) as server,
            gateway_here(server.url, settings=settings) as gateway,
            ollama.AsyncClient(host=gateway.url, trust_env=False) as client,
        ):
            running = (await client.ps()).models[0]
            assert running.context_length
            shown = await client.show("claude-org-tiny-tools-v1")
            assert server.asked[-1] == "show org/tiny-tools:v1"
            lengths = {
                v for k, v in (shown.modelinfo or {}).items() if k.endswith(".context_length")
            }
            assert len(lengths) == 1
            assert continues_parameters(shown.parameters or "")["num_ctx"] == str(lengths.pop())
            version = json.loads(scene("ollama/one_loaded").answers["GET /api/version"].body)
            assert (await gateway.http.get("/api/version")).json() == version

    asyncio.run(main())
