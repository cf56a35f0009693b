"""
A StatusNotifierItem with its menu (com.canonical.dbusmenu) over dbus-fast, without GTK: the Linux backend.

Calls are answered from a table instead of dbus-fast's service classes, whose annotations no type checker reads.
Items keep their number while their key lives, so an open menu stays open when labels change. The icon is sent once more
some seconds after a panel came, for some draw nothing in what they get while they start.

Sources: freedesktop.org StatusNotifierItem; libdbusmenu's com.canonical.dbusmenu interface description.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from penstock_tray.menu import Item

if sys.platform != "linux":
    raise ImportError("StatusNotifierItem is Linux's own")

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

ITEM, MENU, WATCHER = (
    "org.kde.StatusNotifierItem",
    "com.canonical.dbusmenu",
    "org.kde.StatusNotifierWatcher",
)
ITEM_PATH, MENU_PATH = "/StatusNotifierItem", "/MenuBar"
Pixmaps = list[list[Any]]
_ONCE_MORE_S = 3.0
_BUS = "org.freedesktop.DBus"
_NOBODY = {f"{_BUS}.Error.{why}" for why in ("ServiceUnknown", "NameHasNoOwner", "NoReply")}
_HOSTS = ("StatusNotifierHostRegistered", "StatusNotifierHostUnregistered")


def _nothing() -> None:
    """For a call that nobody wants."""


class Notifier:
    """
    All calls come in the event loop and must return at once.

    Args:
        clicked: called with the key of a clicked item.
        opened: the menu opens.
        panel_came: a panel has taken the item.
        ended: the session bus is gone, and with it the session.

    Attributes:
        has_panel: whether a panel is there now. A watcher alone is none: with no host it collects icons for nobody.
    """

    def __init__(
        self,
        clicked: Callable[[str], None],
        opened: Callable[[], None] = _nothing,
        panel_came: Callable[[], None] = _nothing,
        ended: Callable[[], None] = _nothing,
    ) -> None:
        self._clicked, self._opened = clicked, opened
        self._panel_came, self._ended = panel_came, ended
        self.has_panel = self._is_new = False
        self._left = asyncio.Event()
        self._end: asyncio.Task[None] | None = None
        self._asks: asyncio.Task[None] | None = None
        self._bus: MessageBus | None = None
        self._name = f"org.kde.StatusNotifierItem-{os.getpid()}-1"
        self._items: tuple[Item, ...] = ()
        self._title, self._pixmaps = "", list[list[Any]]()
        self._numbers: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._revision = 1

    async def start(self) -> None:
        """Connect to the session bus and register, now or whenever a watcher appears."""
        self._bus = await MessageBus().connect()
        self._bus.add_message_handler(self._handle)
        await self._bus.request_name(self._name)
        rule = f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{WATCHER}'"
        await self._ask_bus("AddMatch", rule)
        await self._ask_bus("AddMatch", f"type='signal',interface='{WATCHER}'")
        reply = await self._ask_bus("NameHasOwner", WATCHER)
        if reply is not None and reply.message_type is MessageType.METHOD_RETURN and reply.body[0]:
            self._register()
        self._end = asyncio.create_task(self._wait_for_end(self._bus))

    async def panel_left(self) -> None:
        """Wait until no panel is there."""
        await self._left.wait()

    async def _ask_bus(self, member: str, text: str) -> Message | None:
        assert self._bus is not None
        return await self._bus.call(
            Message(
                destination=_BUS, path="/org/freedesktop/DBus", interface=_BUS, member=member,
                signature="s", body=[text],
            )
        )  # fmt: skip

    async def _wait_for_end(self, bus: MessageBus) -> None:
        with contextlib.suppress(Exception):  # however the connection broke
            gone: Any = bus.wait_for_disconnect
            await gone()
        self._ended()

    def update(self, items: tuple[Item, ...], title: str, pixmaps: Pixmaps) -> None:
        """Show another state; says on the bus only what differs."""
        before, self._items = self._items, items
        if title != self._title:
            self._title = title
            self._signal(ITEM_PATH, ITEM, "NewTitle")
            self._signal(ITEM_PATH, ITEM, "NewToolTip")
        if pixmaps != self._pixmaps:
            self._pixmaps = pixmaps
            self._say_icon()
        if _shape(before) != _shape(items):
            self._revision += 1
            self._signal(MENU_PATH, MENU, "LayoutUpdated", "ui", [self._revision, 0])
            return
        old = {one.key: one for one in _flat(before)}
        changed = [
            [self._number(one.key), _properties(one)] for one in _flat(items) if old[one.key] != one
        ]
        if changed:
            self._signal(
                MENU_PATH, MENU, "ItemsPropertiesUpdated", "a(ia{sv})a(ias)", [changed, []]
            )

    def stop(self) -> None:
        """Leave the bus; the watcher takes the icon away."""
        for task in (self._end, self._asks):
            if task is not None:
                task.cancel()
        if self._bus is not None:
            self._bus.disconnect()

    def _register(self) -> None:
        assert self._bus is not None
        self._bus.send(
            Message(
                destination=WATCHER, path="/StatusNotifierWatcher", interface=WATCHER,
                member="RegisterStatusNotifierItem", signature="s", body=[self._name],
                flags=MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART,
            )
        )  # fmt: skip

        self._is_new = True
        self._ask_for_host()

    def _ask_for_host(self) -> None:
        self._asks = asyncio.create_task(self._see_host())

    async def _see_host(self) -> None:
        bus = self._bus
        assert bus is not None
        message = Message(
            destination=WATCHER, path="/StatusNotifierWatcher", interface="org.freedesktop.DBus.Properties",
            member="Get", signature="ss", body=[WATCHER, "IsStatusNotifierHostRegistered"],
            flags=MessageFlag.NO_AUTOSTART,
        )  # fmt: skip
        reply = None
        with contextlib.suppress(Exception):  # the bus itself ends
            reply = await bus.call(message)
        if reply is None or reply.error_name in _NOBODY:
            return  # the watcher is gone meanwhile, which is told apart from this
        # One that does not know this property is a panel's own.
        has = reply.message_type is MessageType.ERROR or bool(reply.body[0].value)
        if has and (self._is_new or not self.has_panel):
            self.has_panel, self._is_new = True, False
            self._left.clear()
            self._panel_came()
            asyncio.get_running_loop().call_later(_ONCE_MORE_S, self._say_icon)
        elif not has:
            self._panel_left()

    def _panel_left(self) -> None:
        self.has_panel = False
        self._left.set()

    def _say_icon(self) -> None:
        self._signal(ITEM_PATH, ITEM, "NewIcon")

    def _signal(
        self, path: str, interface: str, member: str, signature: str = "", body: Sequence[Any] = ()
    ) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.send(Message.new_signal(path, interface, member, signature, list(body)))

    def _handle(self, message: Message) -> Message | None:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and message.body[0] == WATCHER:
                if message.body[2]:
                    self._register()
                else:
                    self._panel_left()
            elif message.interface == WATCHER and message.member in _HOSTS:
                self._ask_for_host()
            return None
        if message.path not in (ITEM_PATH, MENU_PATH):
            return None
        if message.interface == "org.freedesktop.DBus.Properties":
            values = self._item() if message.path == ITEM_PATH else _MENU_PROPERTIES
            if message.member == "GetAll":
                return Message.new_method_return(message, "a{sv}", [values])
            if message.member == "Get" and message.body[1] in values:
                return Message.new_method_return(message, "v", [values[message.body[1]]])
            return None
        return self._called(message)

    def _called(self, message: Message) -> Message | None:
        match message.member:
            case "GetLayout":
                root = self._layout(message.body[0])
                return Message.new_method_return(message, "u(ia{sv}av)", [self._revision, root])
            case "GetGroupProperties":
                wanted = set(message.body[0])
                found = [
                    [number, values]
                    for number, values in self._all_properties().items()
                    if number in wanted or not wanted
                ]
                return Message.new_method_return(message, "a(ia{sv})", [found])
            case "GetProperty":
                number, name = message.body
                value = self._all_properties().get(number, {}).get(name)
                return None if value is None else Message.new_method_return(message, "v", [value])
            case "Event":
                self._event(message.body[0], message.body[1])
                return Message.new_method_return(message)
            case "EventGroup":
                for number, kind, *_ in message.body[0]:
                    self._event(number, kind)
                return Message.new_method_return(message, "ai", [[]])
            case "AboutToShow":
                if message.body[0] == 0:
                    self._opened()
                return Message.new_method_return(message, "b", [False])
            case "AboutToShowGroup":
                return Message.new_method_return(message, "aiai", [[], []])
            case "Activate" | "SecondaryActivate" | "ContextMenu" | "Scroll":
                return Message.new_method_return(message)
        return None

    def _event(self, number: int, kind: str) -> None:
        key = self._keys.get(number)
        shown = {one.key: one for one in _flat(self._items)}
        if kind == "clicked" and key in shown and shown[key].enabled:
            self._clicked(key)

    def _all_properties(self) -> dict[int, dict[str, Variant]]:
        return {0: _ROOT, **{self._number(one.key): _properties(one) for one in _flat(self._items)}}

    def _number(self, key: str) -> int:
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        self._keys[number] = key
        return number

    def _layout(self, parent: int) -> list[Any]:
        for one in _flat(self._items):
            if self._number(one.key) == parent:
                return self._node(one)
        kids = [Variant("(ia{sv}av)", self._node(one)) for one in self._items]
        return [0, _ROOT, kids]

    def _node(self, one: Item) -> list[Any]:
        kids = [Variant("(ia{sv}av)", self._node(kid)) for kid in one.items]
        return [self._number(one.key), _properties(one), kids]

    def _item(self) -> dict[str, Variant]:
        return {
            "Category": Variant("s", "ApplicationStatus"),
            "Id": Variant("s", "dev.penstock.Penstock"),
            "Title": Variant("s", self._title),
            "Status": Variant("s", "Active"),
            "WindowId": Variant("i", 0),
            "IconName": Variant("s", ""),
            "IconPixmap": Variant("a(iiay)", self._pixmaps),
            "ToolTip": Variant("(sa(iiay)ss)", ["", [], self._title, ""]),
            # A left click opens the menu: nothing fires by itself.
            "ItemIsMenu": Variant("b", True),
            "Menu": Variant("o", MENU_PATH),
        }


_ROOT = {"children-display": Variant("s", "submenu")}
_MENU_PROPERTIES = {
    "Version": Variant("u", 3),
    "TextDirection": Variant("s", "ltr"),
    "Status": Variant("s", "normal"),
    "IconThemePath": Variant("as", []),
}


def _flat(items: Sequence[Item]) -> list[Item]:
    return [one for top in items for one in (top, *top.items)]


def _shape(items: Sequence[Item]) -> list[Any]:
    return [(top.key, [kid.key for kid in top.items]) for top in items]


def _properties(one: Item) -> dict[str, Variant]:
    if one.separator:
        return {"type": Variant("s", "separator")}
    told = {
        "label": Variant("s", one.label.replace("_", "__")),
        "enabled": Variant("b", one.enabled),
    }
    if one.checked is not None:
        told["toggle-type"] = Variant("s", "checkmark")
        told["toggle-state"] = Variant("i", int(one.checked))
    if one.items:
        told["children-display"] = Variant("s", "submenu")
    return told
