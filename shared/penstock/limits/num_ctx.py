"""
Which window to ask Ollama for (`options.num_ctx`).

Ollama loads a model with a window and loads it again when a request names another one, so windows come in
few size classes, a loaded window is never made smaller, and what a client asks for is a wish: rounded up to
a class, so that one which names another number each time (or none, for its side requests) reloads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_CLASS = 4096
UNKNOWN_MEMORY_CAP = 16_384
"""
Tokens. A guess: the largest window that is asked for where nothing is known of the server's memory. A
model of eight billion parameters keeps it in 2 GiB.
"""


@dataclass(frozen=True, slots=True)
class NumCtx:
    """
    The window of a request to Ollama.

    Attributes:
        window: tokens that the request may occupy; what it is fitted to.
        send: value of `num_ctx`, None to leave it to the server.
        why: one sentence when it is larger than what was loaded or configured, empty otherwise.
    """

    window: int
    send: int | None
    why: str = ""


def size_class(tokens: int) -> int:
    """The smallest class that holds *tokens*: 4,096, doubled as often as it takes."""
    found = SMALLEST_CLASS
    while found < tokens:
        found *= 2
    return found


def largest_class(tokens: int) -> int:
    """The largest class that *tokens* hold; the smallest one where they hold none."""
    return max(SMALLEST_CLASS, 1 << max(0, tokens.bit_length() - 1))


def choose_num_ctx(
    *,
    needed: int,
    wish: int | None,
    loaded: int | None,
    configured: int | None,
    assumed: int,
    trained: int | None,
    fixed: int | None,
    affordable: int | None,
    most: int | None = None,
) -> NumCtx:
    """
    Decide the window of one request.

    Args:
        needed: tokens of the whole conversation and the room for its answer.
        wish: the client's own `num_ctx`, None when it gave none.
        loaded: the window that the model is loaded with, None while it is not.
        configured: `num_ctx` of its Modelfile, None when that says nothing.
        assumed: the window in force when neither is known.
        trained: the window that the model was trained for, None when unknown.
        fixed: a window that the user set; it is asked for and nothing else is.
        affordable: the largest window that the memory holds, None when nothing is known of it.
        most: while memory is short, the largest window that is asked for, even where a larger one is loaded;
            None otherwise.
    """
    if fixed is not None:
        return NumCtx(fixed, fixed)
    base = loaded if loaded is not None else configured
    floor = base if base is not None else max(assumed, SMALLEST_CLASS)
    if most is not None and floor > most:
        return NumCtx(
            most, most, f"{most} tokens are asked for in place of {floor}: memory is short"
        )
    wanted = max(needed, wish or 0)
    if wanted <= floor:
        # Named, so that no other request's window makes Ollama load the model again.
        return NumCtx(floor, base)
    cap = affordable if affordable is not None else UNKNOWN_MEMORY_CAP
    if most is not None:
        cap = min(cap, most)
    if trained is not None:
        cap = min(cap, trained)
    target = size_class(wanted)
    while target > cap and target > SMALLEST_CLASS:
        target //= 2
    if trained is not None and target < min(wanted, cap) and cap == trained:
        target = trained  # no power of two, and the model's own most
    if target <= floor:
        return NumCtx(floor, base)
    was = "loaded with" if loaded is not None else "configured for"
    why = f"the model is {was} {base}" if base is not None else "its window is not known"
    return NumCtx(target, target, f"{target} tokens are asked for: {why}, {wanted} are needed")
