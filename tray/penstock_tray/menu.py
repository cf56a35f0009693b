"""
The menu of a snapshot, as values that every backend can show.

One level of submenus only, for some hosts flatten deeper ones. Keys name items for good: an item keeps its key while
its label changes, so an open menu stays open. The order follows what such apps share: status, what toggles, lists,
what is copied, quit.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock_tray.snapshot import Model, Server, Snapshot


@dataclass(frozen=True, slots=True)
class Item:
    """
    Attributes:
        key: names the item and what a click on it does; `""` only shows.
        checked: of an item that toggles; None for others.
        items: of a submenu.
    """

    key: str
    label: str
    enabled: bool = True
    checked: bool | None = None
    separator: bool = False
    items: tuple[Item, ...] = ()


def title(snapshot: Snapshot) -> str:
    """One line on the state, also the tooltip."""
    if snapshot.gateway == "off":
        return "Penstock is off"
    if snapshot.gateway == "starting":
        return "Penstock is starting"
    if snapshot.gateway == "failed":
        return f"Penstock could not start: {snapshot.why}"
    if snapshot.paused != "none":
        return "Penstock is paused: requests wait"
    if not snapshot.servers:
        return "Penstock is on; no server was found"
    away = [server.name for server in snapshot.servers if server.state == "unreachable"]
    told = f"Penstock is on; {', '.join(away)} does not answer" if away else "Penstock is on"
    return f"{told}, passes through unchanged" if snapshot.bypass == "all" else told


def menu_spec(snapshot: Snapshot) -> tuple[Item, ...]:
    """The items, top to bottom."""
    running = snapshot.gateway == "running"
    items = [
        Item("status", title(snapshot), enabled=False),
        _line("toggles"),
        Item(
            "on", "Penstock on", enabled=snapshot.gateway != "starting",
            checked=snapshot.gateway in ("running", "starting"),
        ),
        Item(
            "bypass", "Pass through unchanged", enabled=running, checked=snapshot.bypass == "all"
        ),
    ]  # fmt: skip
    if snapshot.servers:
        items.append(_line("servers"))
        items += [_server(server) for server in snapshot.servers]
    items += [
        _line("copies"),
        Item("copy", "Copy endpoint", enabled=running),
        _line("end"),
        Item("quit", quit_label(snapshot)),
    ]
    return tuple(items)


def quit_label(snapshot: Snapshot) -> str:
    """Says whether the gateway ends too: it does where a tray started it."""
    if snapshot.gateway == "running" and not snapshot.ours:
        return "Quit Penstock tray (gateway goes on)"
    return "Quit Penstock"


def _line(key: str) -> Item:
    return Item(f"line {key}", "", separator=True)


def _server(server: Server) -> Item:
    state = {"ok": "", "loading": " (loading)", "unreachable": " (does not answer)"}.get(
        server.state, ""
    )
    running = f", {server.running} running" if server.running else ""
    models = tuple(
        Item(f"model {server.name} {model.id}", _model(model), enabled=False)
        for model in server.models
    ) or (Item(f"no model {server.name}", "No models", enabled=False),)
    return Item(f"server {server.name}", f"{server.name}{state}{running}", items=models)


def _model(model: Model) -> str:
    told = [model.id]
    if model.window_tokens is not None:
        told.append(f"window {model.window_tokens}")
    if model.loaded is not None:
        told.append("loaded" if model.loaded else "not loaded")
    return ", ".join(told)
