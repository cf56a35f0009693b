"""
The menu of a snapshot, as values that every backend can show.

One level of submenus only, for some hosts flatten deeper ones. Keys name items for good: an item keeps its key while
its label changes, so an open menu stays open. The order follows what such apps share: status, what toggles, lists,
what is copied and shown, settings, quit. A key is a verb, and what it acts upon after a space (`unload box qwen3`,
with `quote`d names); `actions` knows each.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from penstock_tray.snapshot import Model, Server, Snapshot


@dataclass(frozen=True, slots=True)
class Item:
    """
    Attributes:
        key: names the item and what a click on it does.
        checked: of an item that toggles; None for others.
        items: of a submenu.
    """

    key: str
    label: str
    enabled: bool = True
    checked: bool | None = None
    separator: bool = False
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class App:
    """
    A client that `penstock connect` can set up and that is installed here.

    Attributes:
        name: as `penstock connect` takes it.
        connected: its settings were written for Penstock.
    """

    name: str
    title: str
    connected: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A model server that answers on this machine and is no upstream yet."""

    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class Desktop:
    """
    What the menu shows besides the gateway's state.

    Attributes:
        notifications: shown or not.
        login: what starts with the session: `off`, `tray`, `gateway`, or `blocked` where the desktop switched it off.
        apps: clients that are installed here.
        found: servers that a search found.
        searching: a search runs now.
        said: how the last click went wrong, if it did.
    """

    notifications: bool = True
    login: str = "off"
    apps: tuple[App, ...] = ()
    found: tuple[Found, ...] = ()
    searching: bool = False
    said: str = ""


def key(verb: str, *of: str) -> str:
    """A key of *verb* and what it acts upon."""
    return " ".join([verb, *(quote(one, safe="") for one in of)])


def parts(of: str) -> tuple[str, tuple[str, ...]]:
    """The verb of a key, and what it acts upon."""
    verb, *rest = of.split(" ")
    return verb, tuple(unquote(one) for one in rest)


def title(snapshot: Snapshot) -> str:
    """One line on the state, also the tooltip."""
    if snapshot.gateway == "off":
        return "Penstock is off"
    if snapshot.gateway == "starting":
        return "Penstock is starting"
    if snapshot.gateway == "failed":
        return f"Penstock does not run: {snapshot.why}"
    if snapshot.gateway == "unclear":
        return snapshot.why
    if snapshot.ending:
        return "Penstock is ending: running requests end first"
    if snapshot.drained != "none":
        where = "" if snapshot.drained == "all" else " in part"
        return f"Penstock is drained{where}: it takes no new requests"
    if snapshot.paused != "none":
        return "Penstock is paused: requests wait"
    if not snapshot.servers:
        return "Penstock is on; no server was found"
    away = [server.name for server in snapshot.servers if server.state == "unreachable"]
    if len(away) == 1:
        return f"Penstock: {away[0]} does not answer"
    if away:
        return f"Penstock: {len(away)} servers do not answer"
    if snapshot.bypass == "all":
        return "Penstock passes through unchanged"
    return "Penstock is on"


def menu_spec(snapshot: Snapshot, desktop: Desktop | None = None) -> tuple[Item, ...]:
    """The items, top to bottom."""
    desktop = desktop or Desktop()
    running = snapshot.gateway == "running"
    items = [Item("status", title(snapshot), enabled=False)]
    if desktop.said:
        items.append(Item("said", desktop.said, enabled=False))
    items += [
        Item("dashboard", "Open dashboard", enabled=running),
        _line("toggles"),
        Item(
            "on", "Penstock on",
            enabled=snapshot.gateway not in ("starting", "unclear") and not snapshot.ending,
            checked=snapshot.gateway in ("running", "starting") and not snapshot.ending,
        ),
        Item(
            "bypass", "Pass through unchanged", enabled=running, checked=snapshot.bypass == "all"
        ),
    ]  # fmt: skip
    if snapshot.drained != "none":
        items.append(Item("resume", "Take requests again"))
    elif snapshot.paused != "none":
        items.append(Item("resume", "Let waiting requests go on"))
    if running:
        items.append(_line("servers"))
        items += [_server(server) for server in snapshot.servers]
        items.append(Item("add-server", "Add server", items=_add(desktop)))
    items += [
        _line("copies"),
        Item("copy", "Copy endpoint", enabled=running),
        Item("connect", "Connect a client", enabled=running, items=_apps(desktop)),
        Item("logs", "Show logs"),
        _line("end"),
        Item("settings", "Settings", items=_settings(snapshot, desktop)),
        Item("login", "Start at login", items=_login(desktop)),
        Item("quit", quit_label(snapshot)),
    ]
    return tuple(items)


def quit_label(snapshot: Snapshot) -> str:
    """Says whether the gateway ends too: it does where a tray started it."""
    if snapshot.gateway == "running" and not snapshot.ours:
        return "Quit Penstock tray (gateway goes on)"
    return "Quit Penstock (gateway ends)" if snapshot.gateway == "running" else "Quit Penstock"


def _line(name: str) -> Item:
    return Item(f"line {name}", "", separator=True)


def _server(server: Server) -> Item:
    state = {"ok": "", "loading": " (loading)", "unreachable": " (does not answer)"}.get(
        server.state, ""
    )
    running = f", {server.running} running" if server.running else ""
    items = [
        Item(key("model", server.name, model.id), _model(model), enabled=False)
        for model in server.models
    ] or [Item(key("no-model", server.name), "No models", enabled=False)]
    does: list[Item] = []
    if server.unloads:
        does += [
            Item(key("unload", server.name, model.id), f"Unload {model.id}")
            for model in server.models
            if model.loaded
        ]
    if server.given_up:
        does.append(Item(key("restart", server.name), "Start its server again"))
    if server.forgettable:
        does.append(Item(key("forget", server.name), f"Forget {server.name}"))
    if does:
        items += [_line(key("server", server.name)), *does]
    return Item(key("server", server.name), f"{server.name}{state}{running}", items=tuple(items))


def _model(model: Model) -> str:
    told = [model.id]
    if model.window_tokens is not None:
        told.append(f"window {model.window_tokens:,}")
    if model.loaded is not None:
        told.append("loaded" if model.loaded else "not loaded")
    return ", ".join(told)


def _add(desktop: Desktop) -> tuple[Item, ...]:
    found = tuple(
        Item(key("add", one.url), f"Add {one.kind} at {one.url.removeprefix('http://')}")
        for one in desktop.found
    )
    search = "Looking for servers" if desktop.searching else "Look for servers on this machine"
    return (
        *found,
        Item("search", search, enabled=not desktop.searching),
        Item("dashboard add", "Another address..."),
    )


def _apps(desktop: Desktop) -> tuple[Item, ...]:
    return (
        *(Item(key("app", one.name), one.title, checked=one.connected) for one in desktop.apps),
        *([_line("apps")] if desktop.apps else []),
        Item("dashboard connect", "All clients..."),
    )


def _settings(snapshot: Snapshot, desktop: Desktop) -> tuple[Item, ...]:
    return (
        Item("notifications", "Show notifications", checked=desktop.notifications),
        Item("edit", "Edit settings file"),
        Item(
            "dashboard settings", "Settings in force...", enabled=snapshot.gateway == "running"
        ),
    )  # fmt: skip


def _login(desktop: Desktop) -> tuple[Item, ...]:
    rows = [
        Item("login tray", "Penstock with this icon", checked=desktop.login == "tray"),
        Item("login gateway", "Penstock without an icon", checked=desktop.login == "gateway"),
    ]
    if desktop.login == "blocked":
        rows.append(Item("blocked", "Switched off by your desktop's settings", enabled=False))
    return tuple(rows)
