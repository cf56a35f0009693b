"""
What the tray knows, as values: read from a gateway's status (docs/status.md), or that none runs.

Menu and icon are functions of it, so both always show the live state and nothing that the tray remembers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """
    A model of a server.

    Attributes:
        loaded: whether the server has it in memory; None where that is not known.
        window_tokens: its context window; None where that is not known.
    """

    id: str
    loaded: bool | None = None
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """
    An upstream of the gateway.

    Attributes:
        state: `ok`, `loading`, `unreachable`, `unknown`, `cloud`.
        running: requests that it works on.
        unloads: it can be told to unload a model.
        forgettable: it was added or found by itself, so it can be forgotten; the settings name the others.
        given_up: the gateway runs this server and starts it no more; `resume` does.
    """

    name: str
    url: str
    state: str
    running: int = 0
    models: tuple[Model, ...] = ()
    unloads: bool = False
    forgettable: bool = False
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Attributes:
        gateway: `off`, `starting` (started, does not answer yet), `running`, `failed` (`why` says how), `unclear`: one
            is there that does not answer, or several are, and `why` is the sentence that says so.
        overall: the gateway's own word: `ok`, `starting`, `degraded`, `error`.
        paused, drained, bypass: `none`, `some` or `all` upstreams.
        ours: a tray started this gateway, so Quit ends it.
        ending: it was told to end, so its end is no accident.
        log_file: where it writes; empty for nowhere.
    """

    gateway: str = "off"
    why: str = ""
    url: str = ""
    overall: str = "ok"
    paused: str = "none"
    drained: str = "none"
    bypass: str = "none"
    ours: bool = False
    ending: bool = False
    log_file: str = ""
    servers: tuple[Server, ...] = ()


def read(status: Mapping[str, Any]) -> Snapshot:
    """A running gateway's status. What a newer gateway adds is passed over."""
    switched = status["switched"]
    return Snapshot(
        gateway="running",
        url=status["url"],
        overall=status["overall"],
        paused=switched["paused"],
        drained=switched["drained"],
        bypass=switched["bypass"],
        ours=status["started_by"] == "tray",
        ending=status["state"] == "draining",
        log_file=status.get("log_file") or "",
        servers=tuple(_server(one) for one in status["upstreams"]),
    )


def _server(value: Mapping[str, Any]) -> Server:
    models = tuple(
        Model(model["id"], model.get("loaded"), model.get("context_window"))
        for model in value["models"]
    )
    # The breaker lets nothing through: the gateway counts it as away in its `overall`, too.
    away = value.get("breaker", {}).get("retry_after_s") is not None
    return Server(
        value["name"],
        value["url"],
        "unreachable" if away else value["state"],
        value["concurrency"]["in_flight"],
        models,
        unloads=value.get("unloads", False),
        forgettable=value.get("found_by") in ("state", "discovered"),
        given_up=(value.get("supervised") or {}).get("state") == "given_up",
    )
