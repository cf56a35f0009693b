"""
What does not fit between a client and what it is connected to: said before connecting (`doubts`), and by
`doctor` afterwards (`remarks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.clients.base import MOST_OUTPUT_TOKENS, ClientSpec, Connection, Model

_COMFORT_TOKENS = 8_000
"""What a conversation needs beside the client's own prompt: a file or two and some turns."""


@dataclass(frozen=True, slots=True)
class Connected:
    """
    What a client was connected to.

    Attributes:
        name: of the client.
        window: that it was told; None when none was known.
    """

    name: str
    url: str
    model: str
    window: int | None


@dataclass(frozen=True, slots=True)
class Remark:
    """
    One thing about a client.

    Attributes:
        good: True fine, False a problem, None worth knowing.
        says: what was seen; `do`: what to do about it.
    """

    what: str
    good: bool | None
    says: str
    do: str | None = None


def doubts(spec: ClientSpec, connection: Connection) -> tuple[str, ...]:
    """What speaks against it: a window that is too small for this client's own prompt, or not known."""
    model = connection.model
    if model.window is None:
        return (
            f"Nobody tells the window of {model.id}, so {spec.title} keeps to its own assumption.",
        )
    found = []
    if model.source in ("name", "fallback"):
        found.append(
            f"The window of {model.id} is only assumed ({model.window:,} tokens): load the model and connect again."
        )
    need = spec.own_tokens + spec.keeps_free + model.output_tokens
    # What is advised is enough with the largest output limit that such a window would bring along.
    enough = _round_up(spec.own_tokens + spec.keeps_free + MOST_OUTPUT_TOKENS + _COMFORT_TOKENS)
    if not spec.own_tokens:
        return tuple(found)
    about = f"its own prompt and tools take about {spec.own_tokens:,}"
    if spec.keeps_free:
        about += f" and it keeps {spec.keeps_free:,} free"
    if spec.own_tokens + model.output_tokens > model.window:
        found.append(
            f"The window of {model.window:,} tokens is too small for {spec.title}: {about}. Give the model at least "
            f"{enough:,}."
        )
    elif need + _COMFORT_TOKENS > model.window:
        found.append(
            f"The window of {model.window:,} tokens is tight for {spec.title}: {about}, and answers up to "
            f"{model.output_tokens:,}. It will compact often; {enough:,} and more is "
            "comfortable."
        )
    return tuple(found)


def remarks(
    clients: Sequence[ClientSpec],
    connected: Sequence[Connected],
    installed: Sequence[str],
    gateways: Mapping[str, Sequence[Model]],
    program: str,
) -> list[Remark]:
    """
    What `doctor` says of the clients of this user.

    Args:
        installed: names of clients that are here.
        gateways: url -> models of each gateway that runs.
        program: how the user calls Penstock.
    """
    found = []
    by_name = {record.name: record for record in connected}
    for spec in clients:
        record = by_name.get(spec.name)
        if record is not None:
            found += _of_connected(spec, record, gateways, program)
        if record is not None or spec.name in installed:
            found += [Remark(spec.title, None, text) for text in spec.cannot_prevent]
    return found


def _of_connected(
    spec: ClientSpec, record: Connected, gateways: Mapping[str, Sequence[Model]], program: str
) -> list[Remark]:
    again = f"{program} connect {spec.name} --write"
    if record.url not in gateways:
        if not gateways:
            return []  # that none runs is said elsewhere
        return [
            Remark(spec.title, None, f"is connected to {record.url}, where no gateway of yours runs now", f"{again} connects it to the one that runs here")
        ]  # fmt: skip
    models = {model.id: model for model in gateways[record.url]}
    model = models.get(record.model)
    if model is None:
        return [
            Remark(spec.title, False, f"is connected with the model {record.model}, which is not there any more",
                   f"{again} (or start the model again)")
        ]  # fmt: skip
    if model.window is not None and record.window != model.window:
        told = f"{record.window:,} tokens" if record.window is not None else "no window"
        return [
            Remark(spec.title, False, f"was told {told} for {model.id}, which runs with {model.window:,} now",
                   again)
        ]  # fmt: skip
    window = f" and its window of {model.window:,} tokens" if model.window is not None else ""
    return [Remark(spec.title, True, f"is connected with {model.id}{window}")]


def _round_up(tokens: int) -> int:
    return -(-tokens // 4096) * 4096
