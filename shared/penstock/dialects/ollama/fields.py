"""
The fields that `/api/chat` and `/api/generate` share: how each is read, and what is said when it is wrong.

Ollama checks types and says so (`api/types.go`, Options.FromMap and the UnmarshalJSON methods there); what
it only ignores is let through here. `null` means "not given" everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.dialects.shapes import wrong
from penstock.domain.change import Change
from penstock.domain.chat import ImagePart, ResponseFormat

SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n",
    "presence_penalty", "frequency_penalty", "seed", "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip
"""Options that have a logical name; it is the same as Ollama's for each."""
_WHOLE = frozenset({"top_k", "repeat_last_n", "seed", "mirostat"})
_READ_OPTIONS = frozenset({*SAMPLING, "num_predict", "stop"})
_LONGEST_OUTPUT = 2**31 - 1
_NOTHING_LEFT = re.compile(r"[+-]?(?:0|(?:(?:0+(?:\.0*)?|\.0+)(?:ns|us|µs|μs|ms|s|m|h))+)")
# How base64 of each kind of image begins (the bytes of its signature).
_IMAGE_KINDS = (
    ("/9j/", "image/jpeg"),
    ("iVBORw0KGgo", "image/png"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
    ("Qk", "image/bmp"),
)


def text_of(body: Mapping[str, Any], name: str, where: str = "") -> str:
    """A text; "" when it is not given."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong(f"{where}{name}", "a string", value)
    return value


def flag_of(body: Mapping[str, Any], name: str, default: bool) -> bool:
    """A boolean."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(name, "a boolean", value)
    return value


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `options`; what is `null` in them is not given."""
    value = body.get("options")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong("options", "an object", value)
    return {name: given for name, given in value.items() if given is not None}


def sampling_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters by logical name."""
    found: dict[str, Any] = {}
    for name in SAMPLING:
        if name not in options:
            continue
        value = _number(options[name], f"options.{name}")
        found[name] = int(value) if name in _WHOLE else value
    return found


def output_limit_of(options: Mapping[str, Any]) -> int | None:
    """`num_predict`; 0 and less mean no limit (`runner/ollamarunner/runner.go`)."""
    value = options.get("num_predict")
    if value is None:
        return None
    value = _number(value, "options.num_predict")
    return min(int(value), _LONGEST_OUTPUT) if value >= 1 else None


def _number(value: Any, param: str) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < 2**64 or not math.isfinite(value):
        raise wrong(param, "a number", value)
    number: int | float = value
    return number


def stop_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """`stop`: a list of texts; one alone is taken for a list of one."""
    value = options.get("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise wrong("options.stop", "an array of strings", value)
    return tuple(value)


def server_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """
    What only Ollama has a use for (`num_ctx`, `num_gpu`, `num_keep`, ...): it stays in `extra["options"]`,
    goes to a real Ollama and is announced as dropped elsewhere, by whoever knows where the request goes.
    """
    return {name: value for name, value in options.items() if name not in _READ_OPTIONS}


def format_of(body: Mapping[str, Any]) -> ResponseFormat:
    """`format`: "json", or a JSON Schema."""
    value = body.get("format")
    if value is None or value == "":
        return ResponseFormat()
    if value == "json":
        return ResponseFormat("json_object")
    if isinstance(value, dict):
        return ResponseFormat("json_schema", value)
    raise wrong("format", '"json" or a JSON Schema', value)


def reasoning_of(body: Mapping[str, Any]) -> bool | str | None:
    """`think`: a boolean or an effort. Which efforts there are is the server's matter."""
    value = body.get("think")
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "false": False, "none": False}.get(value.lower(), value.lower())
    raise wrong("think", "a boolean or an effort", value)


def keep_alive_of(body: Mapping[str, Any]) -> str | int | float | None:
    """`keep_alive`: seconds, or a duration in Go's syntax."""
    value = body.get("keep_alive")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong("keep_alive", "a number of seconds or a duration", value)
    return value


def lets_go(keep_alive: str | float | None) -> bool:
    """Whether the model shall be let go at once."""
    if isinstance(keep_alive, str):
        return len(keep_alive) <= 64 and _NOTHING_LEFT.fullmatch(keep_alive.strip()) is not None
    return keep_alive is not None and keep_alive == 0


def images_of(body: Mapping[str, Any], where: str = "") -> tuple[ImagePart, ...]:
    """
    `images`: base64 texts without a word about their kind, so that is read off their first bytes. A
    `data:` URL, which some clients send, is unpacked.
    """
    value = body.get("images")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong(f"{where}images", "an array", value)
    return tuple(_image(image, f"{where}images[{place}]") for place, image in enumerate(value))


def _image(value: Any, where: str) -> ImagePart:
    if not isinstance(value, str) or not value:
        raise wrong(where, "base64 data", value)
    if value.startswith("data:"):
        head, comma, data = value[5:].partition(",")
        if not comma or not head.endswith(";base64"):
            raise wrong(where, "base64 data", value[:40])
        return ImagePart(data=data, media_type=head.removesuffix(";base64") or _kind(data))
    return ImagePart(data=value, media_type=_kind(value))


def _kind(data: str) -> str:
    return next((kind for start, kind in _IMAGE_KINDS if data.startswith(start)), "image/png")


def logprobs_of(body: Mapping[str, Any]) -> tuple[bool, int | None]:
    """`logprobs` and `top_logprobs`."""
    wanted = flag_of(body, "logprobs", False)
    top = body.get("top_logprobs")
    if top is None:
        return wanted, None
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= 20:
        raise wrong("top_logprobs", "a whole number from 0 to 20", top)
    return wanted, top if wanted else None


_WHY_DROPPED = {
    "truncate": "Penstock makes the conversation fit and says so; the server may not cut it unseen",
    "shift": "Penstock makes the conversation fit and says so; the server may not cut it unseen",
    "context": "a state of tokens holds at the server that gave it only; send the conversation instead",
}


def left_out(body: Mapping[str, Any], known: Iterable[str]) -> list[Change]:
    """What is announced of the fields that have no neutral form."""
    names = body.keys() - set(known) - {"penstock"}
    return [
        Change(
            "template" if name == "context" else "sampling",
            name,
            "dropped",
            _WHY_DROPPED.get(name, f"{name[:60]} has no meaning beyond Ollama's own API"),
        )
        for name in sorted(names)
        if body[name] is not None
    ]


def unsaid_logprobs() -> Change:
    """Announced where log probabilities are wanted: the answer has no place for them."""
    return Change(
        "stream", "logprobs", "dropped", "a translated answer carries no log probabilities"
    )
