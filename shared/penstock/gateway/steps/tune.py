"""
What is changed in a request for a local upstream, and why: the step "tune" of the pipeline.

Pure: body, profile and settings in, the body to send and the list of changes out. The gateway runs it on
every generating request to a local upstream, with the conversation that `fitting` made; `penstock explain`
runs the very same dry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from penstock import limits, sampling, template
from penstock.dialects.ollama.upstream import render_chat, think_value
from penstock.dialects.openai.request import parse_request, validate
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest
from penstock.domain.json_kinds import kind_of
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import ServerKind, declared_name
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.conversations.fitting import Prepared
from penstock.gateway.edge.exchange import Operation
from penstock.gateway.steps.edit import Edit, written
from penstock.gateway.steps.translate import Work
from penstock.limits.num_ctx import NumCtx
from penstock.servers import SPECS
from penstock.servers.base import ServerSpec
from penstock.settings import Settings
from penstock.toolcalls.project import project_request

_OLLAMAS_OWN = frozenset({"options", "keep_alive"})


class Tuned(NamedTuple):
    """
    A request made ready for one upstream.

    Attributes:
        path: where it goes there (without the upstream's prefix).
        body: what is sent.
        streams: the server is asked for a stream.
        collects: the client did not ask for one: the stream is folded into one body.
        asked_usage, asked_progress: it was us who asked; the client must not see the answer to it.
        chat: the neutral request, where one was needed for translation.
        is_chat: it is a conversation, not a prompt.
        n: answers asked for: the request's weight.
        output_tokens: the output budget in force, None when nothing bounds it.
        prompt_at_least: tokens that the prompt has for certain.
        changes: everything that differs from what the client sent.
    """

    path: str
    body: bytes
    streams: bool
    collects: bool
    asked_usage: bool = False
    asked_progress: bool = False
    chat: ChatRequest | None = None
    is_chat: bool = True
    n: int = 1
    output_tokens: int | None = None
    prompt_at_least: int = 0
    changes: tuple[Change, ...] = ()


def weight_of(body: Mapping[str, Any]) -> int:
    """How many slots a request takes: its `n`, at least 1."""
    n = body.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 128 else 1


def tune(
    work: Work,
    *,
    upstream_model: str,
    profile: ModelProfile,
    spec: ServerSpec,
    settings: Settings,
    counted_tokens: int = 0,
    env_max_tokens: int | None = None,
    memory_short: bool = False,
    prepared: Prepared | None = None,
    project: bool = False,
    tools_key: int = 0,
) -> Tuned:
    """
    Make a request ready for a local upstream.

    Args:
        work: the request, in OpenAI's dialect where it could be said in it; it is not changed.
        upstream_model: the model's id at the upstream.
        profile: what is known of that model there.
        spec: the file of its server kind.
        settings: in force.
        counted_tokens: of the prompt, as the server counted them when it refused the request's output
            budget; 0 when it did not.
        env_max_tokens: value of `LOCAL_MODEL_MAX_TOKENS`, None when it is not set.
        memory_short: whether the machine is short of memory.
        prepared: the conversation as it is to be sent, valid and fitted; None to take the body's.
        project: schemas are reduced to what the server's grammar can take, not only kept from hanging it.
        tools_key: see `project_request`.

    Raises:
        RequestError: the request cannot work.
    """
    body, raw, operation, path, dialect = (
        work.body,
        work.raw,
        work.operation,
        work.path,
        work.dialect,
    )
    edit = Edit(body)
    if dialect == "openai" and spec.behaviour.chat_dialect == "openai":
        path = _path_there(operation, spec) or path
    if "penstock" in body:
        edit.drop("penstock")
    if body.get("model") != upstream_model and upstream_model:
        edit.set("model", upstream_model)
    if work.translation is not None and spec.behaviour.chat_dialect != "ollama":
        for name in _OLLAMAS_OWN & body.keys():
            edit.drop(name)
            told = f"{spec.kind.value} has no {name}"
            edit.changes.append(Change("sampling", name, "dropped", told))
    wants_stream = body.get("stream") is True
    n = weight_of(body)

    if operation == "embeddings":
        return Tuned(path, edit.apply(raw), False, False, n=1, changes=tuple(edit.changes))
    if operation not in ("chat", "completions") or dialect != "openai":
        return _in_its_own_dialect(edit, raw, path, dialect, spec, n)

    if operation != "chat":
        at_least = limits.prompt_lower_bound(body)
    else:
        at_least = _conversation(edit, profile, spec, prepared)
        fields, changes = project_request(body, only_harmful=not project, tools_key=tools_key)
        for name, value in fields.items():
            edit.replace(name, value)
        edit.changes.extend(changes)

    if operation == "chat" and spec.behaviour.chat_dialect == "ollama":
        return _to_ollama(
            edit,
            upstream_model,
            profile,
            spec,
            settings,
            env_max_tokens,
            memory_short,
            wants_stream,
            at_least,
            None if prepared is None else prepared.num_ctx,
        )

    at_least = max(at_least, counted_tokens)
    plan = _sampling(body, profile, spec, settings)
    for name in plan.drop_fields:
        edit.drop(name)
    for name, value in plan.set_fields.items():
        edit.set(name, value)
    edit.changes.extend(plan.changes)

    window = profile.window.tokens
    budget = _output(body, window, settings, env_max_tokens, memory_short, at_least)
    if budget.change is not None:
        edit.changes.append(budget.change)
        given = body.get("max_completion_tokens") is not None
        name = "max_completion_tokens" if given else "max_tokens"
        edit.set(name, budget.tokens)

    asked_usage = asked_progress = False
    streams = wants_stream or _collectable(body, operation, spec)
    if streams:
        if not wants_stream:
            edit.set("stream", True)
        options = body.get("stream_options")
        has_usage = isinstance(options, dict) and options.get("include_usage") is True
        # llama.cpp tells its counts in `timings` at the end of each stream; asking for usage as well
        # would move these into a chunk of their own.
        if not has_usage and (not wants_stream or spec.behaviour.stream_usage == "stream_options"):
            asked_usage = True
            edit.set("stream_options", {**(options or {}), "include_usage": True})
        progress = spec.behaviour.progress_field
        if progress and operation == "chat" and body.get(progress) is not True:
            asked_progress = True
            edit.set(progress, True)
    return Tuned(
        path,
        edit.apply(raw),
        streams=streams,
        collects=streams and not wants_stream,
        asked_usage=asked_usage,
        asked_progress=asked_progress,
        is_chat=operation == "chat",
        n=n,
        output_tokens=budget.tokens,
        prompt_at_least=at_least,
        changes=tuple(edit.changes),
    )


_LLAMACPP_PLAIN_ONLY = ("n_probs", "return_tokens")
"""With these its stream tells less than its plain answer: tokens of half a character are left out."""


def _in_its_own_dialect(
    edit: Edit, raw: bytes, path: str, dialect: str, spec: ServerSpec, n: int
) -> Tuned:
    """A request that only its own server understands: as it came, but so that a hang-up is noticed."""
    body, progress = edit.body, spec.behaviour.progress_field
    streams = _streams_by_default(body, dialect, path)
    collects = asked_progress = False
    if dialect == "llamacpp" and progress and isinstance(body.get("prompt", ""), str):
        if not streams and not any(body.get(name) for name in _LLAMACPP_PLAIN_ONLY):
            streams = collects = True
            edit.set("stream", True)
        if streams and body.get(progress) is not True:
            asked_progress = True
            edit.set(progress, True)
    return Tuned(
        path,
        edit.apply(raw),
        streams=streams,
        collects=collects,
        asked_progress=asked_progress,
        n=n,
        changes=tuple(edit.changes),
    )


def _path_there(operation: Operation, spec: ServerSpec) -> str | None:
    """Where this kind has an OpenAI operation (Docker Model Runner keeps them under `/engines`)."""
    return {
        "chat": spec.behaviour.chat_path,
        "completions": spec.behaviour.completions_path,
        "embeddings": spec.behaviour.embeddings_path,
    }.get(operation)


def wants_stream(body: Mapping[str, Any], operation: Operation, dialect: str, path: str) -> bool:
    """Whether the client of this request gets a stream."""
    return operation != "embeddings" and _streams_by_default(body, dialect, path)


def _streams_by_default(body: Mapping[str, Any], dialect: str, path: str) -> bool:
    stream = body.get("stream")
    if dialect == "ollama" and path != "/api/embed":
        return stream is not False  # Ollama's native API streams unless told not to.
    return stream is True


def _collectable(body: Mapping[str, Any], operation: Operation, spec: ServerSpec) -> bool:
    """Whether a collected stream would equal the server's own plain answer for these fields."""
    if any(body.get(name) not in (None, False) for name in spec.behaviour.plain_only_fields):
        return False
    return not (operation == "completions" and isinstance(body.get("prompt"), list))


def _conversation(
    edit: Edit, profile: ModelProfile, spec: ServerSpec, prepared: Prepared | None
) -> int:
    """Messages that are fitted, that the template takes, and whose thinking has the server's name.

    Returns:
        tokens that the prompt has for certain.
    """
    given = edit.body.get("messages")
    if prepared is None:
        validate(edit.body)
        messages: Any = given
    else:
        messages = prepared.messages
        edit.changes.extend(prepared.changes)
    valid = template.make_valid(messages, profile.reading.template)
    renamed = template.rename_reasoning(valid.messages, spec.behaviour.reasoning_field)
    edit.changes.extend((*valid.changes, *renamed.changes))
    if renamed.messages is not given:
        edit.replace("messages", list(renamed.messages))
    if prepared is not None and prepared.certain_tokens:
        return prepared.certain_tokens
    return limits.prompt_lower_bound({"messages": messages})


def _sampling(
    body: Mapping[str, Any], profile: ModelProfile, spec: ServerSpec, settings: Settings
) -> sampling.SamplingPlan:
    given = sampling.read_request(body, spec.parameters.aliases)
    forced, defaults = settings.sampling, settings.sampling_defaults
    for upstream in settings.upstreams:
        if upstream.name == declared_name(profile.upstream) and (
            upstream.sampling or upstream.sampling_defaults
        ):
            forced = {**forced, **upstream.sampling}
            defaults = {**defaults, **upstream.sampling_defaults}
    ours = tuple(forced.items()), tuple(defaults.items()), tuple(profile.reading.published.items())
    said = tuple(given.items())
    # A client asks with the same sampling again and again. Only numbers are remembered: `True` is equal
    # to 1 and would answer for it, and a text may be of any size.
    if not given or all(type(value) in (int, float) for _, value in given.values()):
        return _merged(said, *ours, settings.optimised, spec.kind)
    return _merged.__wrapped__(said, *ours, settings.optimised, spec.kind)


@lru_cache(maxsize=512)
def _merged(
    given: tuple[Any, ...],
    forced: tuple[Any, ...],
    defaults: tuple[Any, ...],
    published: tuple[Any, ...],
    options: sampling.OptimisedSampling,
    kind: ServerKind,
) -> sampling.SamplingPlan:
    spec = SPECS[kind]
    return sampling.merge(
        given=dict(given),
        forced=dict(forced),
        defaults=dict(defaults),
        published=dict(published),
        options=options,
        parameters=spec.parameters,
        applies_model_defaults=spec.behaviour.applies_model_defaults,
    )


def _output(
    body: Mapping[str, Any],
    window: int,
    settings: Settings,
    env_max_tokens: int | None,
    memory_short: bool,
    at_least: int,
) -> limits.OutputBudget:
    requested = body.get("max_completion_tokens")
    if requested is None:
        requested = body.get("max_tokens")
    if requested is not None and (isinstance(requested, bool) or not isinstance(requested, int)):
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"max_tokens: expected a whole number, got {kind_of(requested)}.",
            param="max_tokens",
        )
    if requested is not None and requested < -1:
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"max_tokens: expected a whole number of at least 1, got {requested}.",
            param="max_tokens",
        )
    return limits.output_budget(
        requested=None if requested == -1 else requested,
        default=settings.limits.default_output_tokens,
        env_default=env_max_tokens,
        window=window,
        prompt_tokens_at_least=at_least,
        memory_short=memory_short,
        options=settings.limits,
    )


def _to_ollama(
    edit: Edit,
    upstream_model: str,
    profile: ModelProfile,
    spec: ServerSpec,
    settings: Settings,
    env_max_tokens: int | None,
    memory_short: bool,
    wants_stream: bool,
    at_least: int,
    num_ctx: NumCtx | None,
) -> Tuned:
    """Speak Ollama's native `/api/chat`: only there do sampling and the window take effect."""
    merged = {**edit.body, **edit.set_fields}
    chat = parse_request(merged)
    # What a client says in Ollama's own `options` is the request's word as well.
    options = edit.body.get("options")
    asked = {**options, **edit.body} if isinstance(options, dict) else edit.body
    if "num_predict" in asked and asked.get("max_tokens") is None:
        asked = {**asked, "max_tokens": asked["num_predict"]}
    plan = _sampling(asked, profile, spec, settings)
    edit.changes.extend(plan.changes)
    window = profile.window.tokens if num_ctx is None else num_ctx.window
    budget = _output(asked, window, settings, env_max_tokens, memory_short, at_least)
    if budget.change is not None:
        edit.changes.append(budget.change)
    reading = profile.reading
    think, told = think_value(
        chat.reasoning, reading.capabilities.thinking, str(reading.details.get("family"))
    )
    edit.changes.extend(told)
    rendered = render_chat(
        replace(chat, reasoning=think),
        model=upstream_model,
        options={
            spec.parameters.names[name]: value
            for name, value in plan.values.items()
            if name in spec.parameters.names
        },
        max_output_tokens=budget.tokens,
        num_ctx=None if num_ctx is None else num_ctx.send,
        keep_alive=_keep_alive(edit, chat.keep_alive),
    )
    edit.changes.extend(rendered.changes)
    return Tuned(
        spec.behaviour.chat_path,
        written(rendered.body),
        streams=True,
        collects=not wants_stream,
        chat=chat,
        output_tokens=budget.tokens,
        prompt_at_least=at_least,
        changes=tuple(edit.changes),
    )


def _keep_alive(edit: Edit, wish: Any) -> Any:
    """A client's `keep_alive` is a wish: rounded up, so that it throws no conversation's cache away."""
    if wish is None:
        return None
    sent = limits.keep_alive_class(wish)
    if sent is None:
        return wish  # Ollama says what is wrong with it
    if limits.keep_alive_s(wish) != sent:
        edit.changes.append(
            Change("sampling", "keep_alive", "rewritten", f"a wish, rounded up to {sent} s")
        )
    return sent
