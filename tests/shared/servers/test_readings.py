"""What a server says of itself and its models is read from where it really stands."""

from __future__ import annotations

import orjson
import pytest

from penstock.domain.profile import ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.servers import SPECS, llamacpp, ollama, spec
from penstock.servers.base import Answer
from penstock.servers.common import template_rules, whole
from server_scenes import MODEL_SERVERS, Scene, scene


def reading(name: str) -> ServerReading:
    """The reading of a scene."""
    found = scene(name)
    assert found.kind is not None
    return spec(found.kind).read(found.answers)


def model(name: str, wanted: str) -> ModelReading:
    """One model's reading in a scene."""
    return next(m for m in reading(name).models if m.model == wanted)


@pytest.mark.parametrize(
    ("name", "wanted", "window", "slots", "origin"),
    [
        pytest.param("llamacpp/two_slots", "tiny.gguf", 1024, 2, "/props", id="llama.cpp -c 2048 -np 2"),
        pytest.param("llamacpp/unified_tools", "tiny-tools", 4096, 4, "/props", id="llama.cpp unified KV"),
        pytest.param("llamacpp/strict_no_slots", "strict.gguf", 8192, 1, "/props", id="llama.cpp --no-slots"),
        pytest.param("llamacpp/behind_a_proxy", "tiny.gguf", 1024, 2, "/props", id="llama.cpp behind nginx"),
        pytest.param("ollama/one_loaded", "tiny:latest", 2048, None, "/api/ps", id="Ollama, loaded"),
        pytest.param("ollama/nothing_loaded", "tiny:latest", 2048, None, "num_ctx", id="Ollama, its Modelfile"),
        pytest.param("ollama/nothing_loaded", "org/tiny-tools:v1", None, None, "", id="Ollama, not known yet"),
        pytest.param("vllm/serving", "Qwen/Qwen2.5-7B-Instruct", 32768, None, "max_model_len", id="vLLM"),
        pytest.param("vllm/serving", "my-lora", 32768, None, "max_model_len", id="vLLM, an adapter"),
        pytest.param("sglang/serving", "meta-llama/Llama-3.1-8B-Instruct", 131072, 48, "max_model_len", id="SGLang"),
        pytest.param("sglang/no_max_model_len", "meta-llama/Llama-3.1-8B-Instruct", 16384, 48, "/server_info", id="SGLang, older"),
        pytest.param("tgi/serving", "meta-llama/Llama-3.1-8B-Instruct", 4096, 128, "max_total_tokens", id="TGI"),
        pytest.param("lmstudio/serving", "qwen2.5-7b-instruct", 4096, None, "loaded_context_length", id="LM Studio, loaded"),
        pytest.param("lmstudio/serving", "qwen2-vl-7b-instruct", None, None, "", id="LM Studio, not loaded"),
        pytest.param("lmstudio/without_api_v0", "qwen2.5-7b-instruct", None, None, "", id="LM Studio, older"),
        pytest.param("localai/serving", "llama-3.2-1b-instruct:q4_k_m", None, None, "", id="LocalAI does not say"),
        pytest.param("koboldcpp/serving", "koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M", 8192, 1, "true_max_context_length", id="KoboldCpp"),
        pytest.param("textgen/serving", "Meta-Llama-3-8B-Instruct-Q5_K_M.gguf", None, None, "", id="text-generation-webui does not say"),
        pytest.param("tabbyapi/serving", "Mistral-7B-exl2", 32768, 4, "max_seq_len", id="TabbyAPI"),
        pytest.param("mlx/serving", "mlx-community/Llama-3.2-3B-Instruct-4bit", None, None, "", id="mlx-lm does not say"),
        pytest.param("jan/with_key", "qwen3-4b", None, None, "", id="Jan does not say"),
        pytest.param("dockermr/serving", "ai/smollm2", None, None, "", id="Docker Model Runner does not say"),
        pytest.param("lemonade/serving", "Qwen3-4B-GGUF", 8192, None, "ctx_size", id="Lemonade, loaded"),
        pytest.param("lemonade/serving", "Llama-3.2-1B-Instruct-Hybrid", None, None, "", id="Lemonade, not loaded"),
        pytest.param("generic/openai_like", "my-model", None, None, "", id="an unknown server does not say"),
        pytest.param("generic/openai_like", "other", 16384, None, "max_model_len", id="an unknown server that says"),
    ],
)  # fmt: skip
def test_the_window_it_runs_with(
    name: str, wanted: str, window: int | None, slots: int | None, origin: str
) -> None:
    """The running window per slot, the slots, and the place they were read from."""
    found = model(name, wanted)
    assert (found.running_window, found.slots) == (window, slots)
    assert origin in found.window_origin
    assert bool(found.window_origin) == (window is not None)


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_the_trained_window_is_never_the_running_one(one: Scene) -> None:
    """No window is read from a field that tells what the model was trained for."""
    assert one.kind is not None
    for found in spec(one.kind).read(one.answers).models:
        assert "train" not in found.window_origin
        assert "max_context_length" not in found.window_origin.replace("true_max", "")


@pytest.mark.parametrize(
    ("name", "wanted", "trained"),
    [
        pytest.param("llamacpp/two_slots", "tiny.gguf", 8192, id="llama.cpp"),
        pytest.param("ollama/one_loaded", "tiny:latest", 8192, id="Ollama"),
        pytest.param("lmstudio/serving", "qwen2.5-7b-instruct", 32768, id="LM Studio"),
    ],
)
def test_the_trained_window_is_told_apart(name: str, wanted: str, trained: int) -> None:
    """What the model was trained for is kept beside the running window."""
    assert model(name, wanted).trained_window == trained


def test_llamacpp_window_without_props() -> None:
    """Where /props is switched off or guarded, the listing's own n_ctx, per slot too, is taken."""
    answers = {
        k: v for k, v in scene("llamacpp/two_slots").answers.items() if k == "GET /v1/models"
    }
    (found,) = llamacpp.SPEC.read(answers).models
    assert (found.running_window, found.window_origin) == (1024, "/v1/models meta.n_ctx")


def test_llamacpp_is_not_ready_while_it_loads() -> None:
    """A server that says 503 to everything is there, but not ready."""
    found = reading("llamacpp/loading")
    assert found.ready is False
    assert found.models == ()


def test_llamacpp_publishes_no_sampling() -> None:
    """What /props lists by itself are the server's own defaults, not the model's word."""
    assert model("llamacpp/two_slots", "tiny.gguf").published == {}


@pytest.mark.parametrize(
    ("name", "wanted", "tools"),
    [
        pytest.param("llamacpp/unified_tools", "tiny-tools", True, id="llama.cpp, a template with tools"),
        pytest.param("lmstudio/serving", "qwen2.5-7b-instruct", True, id="LM Studio, tool_use"),
        pytest.param("lmstudio/serving", "qwen2-vl-7b-instruct", None, id="LM Studio does not say"),
        pytest.param("ollama/one_loaded", "tiny:latest", False, id="Ollama, a template without"),
        pytest.param("ollama/one_loaded", "org/tiny-tools:v1", True, id="Ollama, a template with"),
    ],
)  # fmt: skip
def test_tools(name: str, wanted: str, tools: bool | None) -> None:
    """Whether the model takes tools, where that can be told."""
    assert model(name, wanted).capabilities.tools is tools


def test_vision_and_embeddings() -> None:
    """Models that see and models that only embed are known as such."""
    assert model("lmstudio/serving", "qwen2-vl-7b-instruct").capabilities.vision is True
    embed = model("lmstudio/serving", "text-embedding-nomic-embed-text-v1.5")
    assert embed.capabilities.embeddings is True
    assert model("llamacpp/two_slots", "tiny.gguf").capabilities.vision is False


@pytest.mark.parametrize(
    ("name", "wanted", "loaded"),
    [
        pytest.param("ollama/one_loaded", "tiny:latest", True, id="Ollama, in memory"),
        pytest.param("ollama/one_loaded", "org/tiny-tools:v1", False, id="Ollama, on disk"),
        pytest.param("lmstudio/serving", "qwen2.5-7b-instruct", True, id="LM Studio, in memory"),
        pytest.param("lmstudio/serving", "qwen2-vl-7b-instruct", False, id="LM Studio, on disk"),
        pytest.param("llamacpp/two_slots", "tiny.gguf", True, id="llama.cpp has what it lists"),
        pytest.param("mlx/serving", "mlx-community/Llama-3.2-3B-Instruct-4bit", None, id="mlx-lm does not say"),
    ],
)  # fmt: skip
def test_loaded(name: str, wanted: str, loaded: bool | None) -> None:
    """Whether the model is in memory, where that can be told."""
    assert model(name, wanted).loaded is loaded


def test_ollama_publishes_its_modelfile() -> None:
    """The Modelfile's parameters are what the model publishes; num_ctx and stop are no sampling."""
    assert dict(model("ollama/one_loaded", "tiny:latest").published) == {
        "temperature": 0.6,
        "top_k": 20,
    }


@pytest.mark.parametrize(
    ("wanted", "remote"),
    [
        pytest.param("tiny:latest", False, id="runs here"),
        pytest.param("gpt-oss:120b-cloud", True, id="a cloud model by its name"),
        pytest.param("mine:latest", True, id="a cloud model by remote_host only"),
    ],
)
def test_ollama_models_that_leave_the_machine(wanted: str, remote: bool) -> None:
    """A model that Ollama only relays to its cloud is known as remote."""
    assert model("ollama/cloud_models", wanted).remote is remote


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("temperature 0.7", {"temperature": 0.7}, id="a fraction"),
        pytest.param("num_ctx                        4096", {"num_ctx": 4096}, id="a whole number"),
        pytest.param("temperature 1", {"temperature": 1}, id="a fraction that is whole"),
        pytest.param('stop "<|im_end|>"\nstop "a b"', {"stop": ("<|im_end|>", "a b")}, id="several stops"),
        pytest.param('stop "never closed', {"stop": ("never closed",)}, id="a broken quote"),
        pytest.param("penalize_newline false", {"penalize_newline": "false"}, id="a word"),
        pytest.param("\n  \nalone\n", {}, id="nothing"),
        pytest.param("top_p 1e-1", {"top_p": 0.1}, id="an exponent"),
        pytest.param("temperature 0", {"temperature": 0}, id="zero is a value"),
    ],
)  # fmt: skip
def test_modelfile_parameters(text: str, found: dict[str, object]) -> None:
    """The parameters of /api/show are read line by line, whatever they hold."""
    assert ollama.modelfile_parameters(text) == found


@pytest.mark.parametrize(
    ("template", "late_system", "neighbours"),
    [
        pytest.param("{{ raise_exception('System message must be at the beginning.') }}", False, None, id="Qwen 3"),
        pytest.param("{{ raise_exception('Conversation roles must alternate user/assistant') }}", False, False, id="Llama 2, Mistral, Gemma"),
        pytest.param("{% for m in messages %}{{ m.content }}{% endfor %}", None, None, id="ChatML says nothing"),
        pytest.param("", None, None, id="no template"),
    ],
)  # fmt: skip
def test_template_rules(template: str, late_system: bool | None, neighbours: bool | None) -> None:
    """Only what a template says itself is taken for certain."""
    rules = template_rules(template)
    assert (rules.late_system, rules.same_role_neighbours) == (late_system, neighbours)


def test_a_strict_template_is_read_from_the_real_server() -> None:
    """What the text of the real server's template says reaches the reading."""
    assert model("llamacpp/strict_no_slots", "strict.gguf").template.late_system is False


@pytest.mark.parametrize(
    ("value", "number"),
    [
        pytest.param(4096, 4096, id="a number"),
        pytest.param("4096", 4096, id="text"),
        pytest.param(4096.0, 4096, id="a whole fraction"),
        pytest.param(0, None, id="zero"),
        pytest.param(-1, None, id="negative"),
        pytest.param(True, None, id="a boolean"),
        pytest.param("4k", None, id="a word"),
        pytest.param(None, None, id="nothing"),
        pytest.param(float("nan"), None, id="not a number"),
        pytest.param("²", None, id="a digit that is no number"),
        pytest.param("9" * 40, None, id="absurd"),
    ],
)
def test_whole(value: object, number: int | None) -> None:
    """A count is a whole number above zero, or not known."""
    assert whole(value) == number


@pytest.mark.parametrize(
    ("rows", "busy"),
    [
        pytest.param('[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]', 1, id="one"),
        pytest.param("[]", 0, id="none"),
        pytest.param('{"error":{}}', None, id="not a list"),
    ],
)
def test_llamacpp_busy_slots(rows: str, busy: int | None) -> None:
    """How many slots work is counted, or said to be unknown."""
    assert llamacpp.SPEC.busy_slots(Answer(200, {}, rows.encode())) == busy


@pytest.mark.parametrize("kind", [pytest.param(k, id=k) for k in SPECS])
def test_a_documented_kind_drops_nothing_silently(kind: ServerKind) -> None:
    """What is known from documentation only passes on what it does not know."""
    one = spec(kind)
    assert one.knowledge == "recorded" or one.parameters.passes_unknown


@pytest.mark.parametrize("kind", [pytest.param(k, id=k) for k in SPECS])
def test_reading_probes_come_to_an_end(kind: ServerKind) -> None:
    """Asking for what is wanted next, with the answers got so far, ends after a few rounds."""
    for one in (s for s in MODEL_SERVERS if s.kind is kind):
        got: dict[str, Answer] = {}
        for _ in range(4):
            wanted = [p for p in spec(kind).reading_probes(got) if p.key not in got]
            if not wanted:
                break
            got |= {p.key: one.answers.get(p.key, one.default) for p in wanted}
        else:
            pytest.fail("it never has enough")
        assert spec(kind).read(got) == spec(kind).read(one.answers)


@pytest.mark.parametrize(
    ("row", "loaded", "status"),
    [
        pytest.param({}, True, "", id="no router: the server is the model"),
        pytest.param({"status": {"value": "loaded", "args": []}}, True, "loaded", id="loaded"),
        pytest.param({"status": {"value": "unloaded"}}, False, "unloaded", id="unloaded"),
        pytest.param({"status": {"value": "sleeping"}}, False, "unloaded", id="sleeping"),
        pytest.param({"status": {"value": "loading"}}, False, "loading", id="loading"),
        pytest.param(
            {"status": {"value": "unloaded", "failed": True, "exit_code": 1}}, False, "failed", id="failed"
        ),
        pytest.param({"status": "odd"}, True, "", id="another shape"),
    ],
)  # fmt: skip
def test_a_router_tells_what_is_loaded(row: dict[str, object], loaded: bool, status: str) -> None:
    """llama.cpp in router mode says of each model whether it is in memory; other modes have one model."""
    models = {"data": [{"id": "m", "owned_by": "llamacpp", **row}]}
    answers = {"GET /v1/models": Answer(200, {}, orjson.dumps(models))}
    (read,) = llamacpp.SPEC.read(answers).models
    assert (read.loaded, read.status) == (loaded, status)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"size": 100, "size_vram": 100}, 0, id="all on the GPU"),
        pytest.param({"size": 100, "size_vram": 40}, 60, id="a part"),
        pytest.param({"size": 100}, 100, id="no GPU"),
        pytest.param({"size": "odd"}, None, id="another shape"),
    ],
)
def test_where_a_loaded_model_lies(row: dict[str, object], expected: int | None) -> None:
    """Ollama tells how much of a model lies in the machine's own memory."""
    answers = {
        "GET /api/tags": Answer(200, {}, b'{"models":[{"name":"m"}]}'),
        "GET /api/ps": Answer(200, {}, orjson.dumps({"models": [{"name": "m", **row}]})),
    }
    (read,) = ollama.SPEC.read(answers).models
    assert (read.status, read.memory_bytes) == ("loaded", expected)
