"""Which window is in force, and where its number comes from (contracts 8)."""

from __future__ import annotations

from fnmatch import fnmatchcase

from penstock.domain.profile import Window, WindowSource
from penstock.limits.options import FallbackWindows, LimitOptions
from penstock.limits.sizes import parameter_count, size_class


def explicit_window(model: str, options: LimitOptions) -> int | None:
    """The window that the settings give *model*: by name, by pattern, or for all."""
    plain = model.removesuffix(":latest")  # Ollama lists `tiny:latest` what everybody calls `tiny`
    for name in (model, plain):
        if name in options.models:
            return options.models[name]
    for pattern, window in options.models.items():
        if fnmatchcase(model, pattern) or fnmatchcase(plain, pattern):
            return window
    return options.window


def decide_window(
    *,
    model: str,
    explicit: int | None = None,
    env: int | None = None,
    last: int | None = None,
    running: int | None = None,
    running_origin: str = "",
    learned: int | None = None,
    refused: int | None = None,
    fallback: FallbackWindows | None = None,
) -> Window:
    """
    Decide the window of one model at one upstream.

    Args:
        explicit: from the settings.
        env: from `LOCAL_MODEL_TOKEN_LIMIT`.
        running: what the server says it runs with, per slot; *running_origin* names where it says so.
        learned: from an error or a truncation.
        last: what the same server process ran the model with before it put it out of memory.
        refused: named by a refusal for length; it caps all others until the server restarts.
        fallback: windows by size; the defaults when None.

    All counts are tokens of prompt and output together.
    """
    window = _first(model, explicit, env, running, running_origin, learned, last, fallback)
    if refused is not None and refused < window.tokens:
        return Window(
            refused,
            WindowSource.REFUSAL,
            f"the server refused a request and named {refused}; "
            f"{window.tokens} was believed from {window.source.value}",
        )
    return window


def _first(
    model: str,
    explicit: int | None,
    env: int | None,
    running: int | None,
    running_origin: str,
    learned: int | None,
    last: int | None,
    fallback: FallbackWindows | None,
) -> Window:
    if explicit is not None:
        return Window(explicit, WindowSource.EXPLICIT, "from the settings")
    if env is not None:
        return Window(env, WindowSource.ENV, "LOCAL_MODEL_TOKEN_LIMIT")
    if running is not None:
        return Window(running, WindowSource.RUNNING, running_origin or "the server says so")
    if learned is not None:
        return Window(learned, WindowSource.LEARNED, "learned from an answer")
    if last is not None:
        return Window(last, WindowSource.LEARNED, "not loaded now; it ran with this last")
    windows = fallback or FallbackWindows()
    billions = parameter_count(model)
    name = size_class(billions)
    if billions is None:
        return Window(windows.unknown, WindowSource.FALLBACK, "nothing is known of the model")
    return Window(
        windows.of(name), WindowSource.NAME, f"assumed for the {name} class ({billions:g} billion)"
    )
