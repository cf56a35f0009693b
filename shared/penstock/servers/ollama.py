"""
Ollama. Recorded from a real 0.17.4; error texts also from `server/routes.go` and `server/sched.go`.

Its window is known only while a model is loaded (`/api/ps`); `<arch>.context_length` of `/api/show` is
the trained one. On `/v1` it replaces a missing temperature and top_p by 1.0 and ignores the rest, so the
gateway speaks the native dialect to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from penstock.domain.profile import Capabilities, ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import OUT_OF_MEMORY, digest, obj, rows, text, told, whole

VERSION = Probe("/api/version")
ROOT = Probe("/")
PS = Probe("/api/ps")
TAGS = Probe("/api/tags")

_OPTIONS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n",
    "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "seed",
)  # fmt: skip
_MOST_MODELS_SHOWN = 24


def show(model: str) -> Probe:
    """The probe that reads one model's Modelfile parameters and capabilities."""
    return Probe("/api/show", "POST", {"model": model}, key=f"show {model}")


def _fingerprint(answers: Answers) -> Match | None:
    version = text(obj(answers, VERSION.key).get("version"))
    root = answers.get(ROOT.key)
    says = root is not None and root.ok and root.text.strip() == "Ollama is running"
    ps = obj(answers, PS.key)
    has_ps = isinstance(ps.get("models"), list)
    if not version or _impostor(answers):
        return None
    because = [f"/api/version says {version}"]
    if says:
        because.append("/ says 'Ollama is running'")
    if has_ps:
        because.append("/api/ps lists loaded models")
    if not says and not has_ps:
        return None
    return Match(0.98 if says and has_ps else 0.8, tuple(because), version)


def _impostor(answers: Answers) -> bool:
    """LocalAI, KoboldCpp, Lemonade, SGLang and Docker Model Runner speak parts of this API."""
    return bool(
        obj(answers, "GET /.well-known/serviceinfo").get("software")
        or obj(answers, "GET /.well-known/localai.json")
        or "all_models_loaded" in obj(answers, "GET /v1/health")
        or obj(answers, "GET /server_info")
        or obj(answers, "GET /model_info")
        or (answers.get("GET /engines/status") is not None and answers["GET /engines/status"].ok)
    )


def _reading_probes(answers: Answers) -> tuple[Probe, ...]:
    first = (PS, TAGS, VERSION)
    names = [text(row.get("name")) for row in rows(obj(answers, PS.key), "models")]
    names += [text(row.get("name")) for row in rows(obj(answers, TAGS.key), "models")]
    unique = list(dict.fromkeys(name for name in names if name))
    return (*first, *(show(name) for name in unique[:_MOST_MODELS_SHOWN]))


def _read(answers: Answers) -> ServerReading:
    loaded = {text(row.get("name")): row for row in rows(obj(answers, PS.key), "models")}
    models = []
    for row in rows(obj(answers, TAGS.key), "models"):
        name = text(row.get("name"))
        if not name:
            continue
        models.append(_model(name, row, loaded.get(name), obj(answers, show(name).key)))
    version = text(obj(answers, VERSION.key).get("version")) or None
    return ServerReading(models=tuple(models), version=version)


def _model(
    name: str,
    tag: Mapping[str, Any],
    running: Mapping[str, Any] | None,
    shown: Mapping[str, Any],
) -> ModelReading:
    parameters = modelfile_parameters(text(shown.get("parameters")))
    window = whole(running.get("context_length")) if running else None
    origin = "/api/ps context_length" if window else ""
    if window is None and (configured := whole(parameters.get("num_ctx"))):
        window, origin = configured, "/api/show parameters num_ctx"
    trained = None
    info = shown.get("model_info")
    if isinstance(info, Mapping):
        trained = next((whole(v) for k, v in info.items() if k.endswith(".context_length")), None)
    abilities = shown.get("capabilities")
    abilities = set(abilities) if isinstance(abilities, list) else None
    details = tag.get("details")
    details = details if isinstance(details, Mapping) else {}
    return ModelReading(
        model=name,
        running_window=window,
        window_origin=origin,
        trained_window=trained,
        loaded=running is not None,
        status="unloaded" if running is None else "loaded",
        memory_bytes=_beside_the_gpu(running),
        capabilities=Capabilities(
            tools=None if abilities is None else "tools" in abilities,
            vision=None if abilities is None else "vision" in abilities,
            thinking=None if abilities is None else "thinking" in abilities,
            embeddings=None if abilities is None else "embedding" in abilities or None,
            completion=None if abilities is None else "completion" in abilities,
        ),
        template_digest=digest(text(shown.get("template"))),
        published={
            k: v for k, v in parameters.items() if k in _OPTIONS and not isinstance(v, tuple)
        },
        remote=bool(
            text(tag.get("remote_host"))
            or text(shown.get("remote_host"))
            or name.endswith((":cloud", "-cloud"))
        ),
        shape=_shape(info),
        parameter_count=_billions(text(details.get("parameter_size"))),
        details=told(
            quantization=text(details.get("quantization_level")),
            family=text(details.get("family")),
            size_bytes=whole(tag.get("size")),
            digest=text(tag.get("digest"))[:12],
        ),
    )


def _beside_the_gpu(running: Mapping[str, Any] | None) -> int | None:
    """Bytes that a loaded model holds in the machine's own memory."""
    size = running.get("size") if running else None
    on_gpu = running.get("size_vram", 0) if running else None
    if not isinstance(size, int) or not isinstance(on_gpu, int):
        return None
    return max(0, size - on_gpu)


def _shape(info: object) -> dict[str, object]:
    """The model's shape, without its vocabulary (`verbose` lists that, and it is large)."""
    if not isinstance(info, Mapping):
        return {}
    return {key: value for key, value in info.items() if not str(key).startswith("tokenizer.")}


def _billions(size: str) -> float | None:
    unit = {"B": 1.0, "M": 1e-3, "K": 1e-6, "T": 1e3}.get(size[-1:].upper())
    try:
        return float(size[:-1]) * unit if unit else None
    except ValueError:
        return None


def modelfile_parameters(listing: str) -> dict[str, float | int | str | tuple[str, ...]]:
    """
    The `parameters` text of `/api/show`: a name and a value per line, `stop` several times.

    Returns:
        numbers as numbers, `stop` as a tuple.
    """
    found: dict[str, float | int | str | tuple[str, ...]] = {}
    stops: list[str] = []
    for line in listing.splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if not name or not value:
            continue
        if name == "stop":
            try:
                stops.extend(shlex.split(value))
            except ValueError:
                stops.append(value.strip('"'))
            continue
        try:
            number = float(value)
        except ValueError:
            found[name] = value
        else:
            is_whole = number.is_integer() and "." not in value and "e" not in value.lower()
            found[name] = int(number) if is_whole else number
    if stops:
        found["stop"] = tuple(stops)
    return found


SPEC = ServerSpec(
    kind=ServerKind.OLLAMA,
    title="Ollama",
    ports=(11434,),
    knowledge="recorded",
    homepage="https://github.com/ollama/ollama",
    probes=(VERSION, ROOT, PS),
    fingerprint=_fingerprint,
    reading_probes=_reading_probes,
    read=_read,
    behaviour=Behaviour(
        chat_dialect="ollama",
        chat_path="/api/chat",
        plain_only_fields=Behaviour().plain_only_fields | {"n"},
        stream_usage="stream_options",
        notices_hangup_decoding=True,
        notices_hangup_prefill=False,
        plain_ignores_hangup=False,
        close_cancels_load=True,
        readiness=VERSION,
        # server/sched.go: a model that does not fit beside the others waits until one of them is idle, and with it
        # all that came later; each loaded model has a runner with OLLAMA_NUM_PARALLEL slots of its own.
        loads_on_demand=True,
        own_budgets=frozenset({"embeddings"}),
        continues={},  # where the model's template leaves the last message open
        drops_images=True,  # server/prompt.go puts `[img-0]` into the prompt; the runner has no projector
        memory_grows="by_window",
    ),
    smaller_window=True,
    parameters=Parameters(
        names={name: name for name in _OPTIONS},
        passes_unknown=False,
        aliases={"repetition_penalty": "repeat_penalty", "typical": "typical_p"},
    ),
    fault_rules=(
        rule(
            E.MODEL_MISSING, r"model ['\"].{0,200}['\"] not found", status=404, source="routes.go"
        ),
        rule(
            E.UPSTREAM_OVERLOADED,
            r"server busy, please try again\.\s+maximum pending requests exceeded",
            source="sched.go",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"prompt is (?:too long|longer than the context length)|"
            r"input (?:length )?exceeds the (?:maximum )?context length",
            source="routes.go",
        ),
        rule(
            E.OUT_OF_MEMORY,
            rf"out-of-memory|resource limitations|{OUT_OF_MEMORY}",
            source="sched.go, llm/server.go",
        ),
        rule(
            E.UPSTREAM_LOADING,
            r"llm server loading model|timed out waiting for llama",
            source="llm/server.go",
        ),
        rule(E.UPSTREAM_OVERLOADED, r"no slots available after", source="llm/server.go"),
        rule(
            E.UPSTREAM_BAD_REQUEST,
            r"does not support (?:tools|thinking|chat|generate|insert)",
            status=400,
            source="routes.go",
        ),
        rule(E.GRAMMAR_REFUSED, r"invalid json schema in format", source="recorded (a 500)"),
        # Wrong requests that come back as a 500: no use in sending them again.
        rule(
            E.UPSTREAM_BAD_REQUEST,
            r"^invalid format: |^option \".{1,60}\" must be of type",
            source="recorded",
        ),
        rule(
            E.UNSUPPORTED_INPUT,
            r"(?:image|vision).{0,60}not supported|missing data required for image",
        ),
    ),
    # server/routes.go: an empty prompt with keep_alive 0 unloads.
    unload=lambda model: Probe("/api/generate", "POST", {"model": model, "keep_alive": 0}),
)
