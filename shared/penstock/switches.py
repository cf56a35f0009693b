"""
What is switched at run time: pause, drain, bypass, upstreams that were added or forgotten (contracts 11).

A switch has one value for all upstreams and others for some by name; whoever switches all of them means all,
so the names are forgotten then. Everything here is a value: what a switch does to requests is known by
`gateway.upstreams.gate`, and what is kept of it across restarts stands in `state.json`
(`adapters.state_file`). Drains are not kept: one is begun by somebody who waits for its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from penstock.domain.upstream import ServerKind, Upstream

Which = Literal["pause", "drain", "bypass"]
VALUES: Mapping[Which, frozenset[str]] = {
    "pause": frozenset({"hold", "refuse"}),
    "drain": frozenset({"hold", "refuse"}),
    "bypass": frozenset({"on"}),
}
OFF = ""
_KEPT: tuple[Which, ...] = ("pause", "bypass")
_LONGEST_NAME, _MOST_ADDED = 64, 256


@dataclass(frozen=True, slots=True)
class Switch:
    """
    One value for all upstreams, and others for some.

    Attributes:
        everywhere: of upstreams that `named` does not hold; empty is off.
        named: by upstream.
    """

    everywhere: str = OFF
    named: Mapping[str, str] = field(default_factory=dict)

    def at(self, upstream: str) -> str:
        """The value there; empty is off."""
        return self.named.get(upstream, self.everywhere)

    def turned(self, upstream: str | None, value: str) -> Switch:
        """Another value for one upstream, or for all."""
        if upstream is None:
            return Switch(value)
        named = {name: v for name, v in self.named.items() if name != upstream}
        if value != self.everywhere:
            named[upstream] = value
        return Switch(self.everywhere, named)


@dataclass(frozen=True, slots=True)
class Added:
    """
    An upstream that was added at run time. No secrets: these belong into the settings.

    Attributes:
        name, url, local, kind, models: see `Upstream`.
    """

    name: str
    url: str
    local: bool | None = None
    kind: ServerKind | None = None
    models: tuple[str, ...] = ()

    def upstream(self) -> Upstream:
        """As the gateway uses it."""
        return Upstream(
            self.name,
            self.url,
            local=self.local,
            kind=self.kind,
            models=self.models,
            found_by="state",
        )


@dataclass(frozen=True, slots=True)
class Switches:
    """
    All of it.

    Attributes:
        forgotten: URLs of upstreams that discovery found and nobody wants.
    """

    pause: Switch = field(default_factory=Switch)
    drain: Switch = field(default_factory=Switch)
    bypass: Switch = field(default_factory=Switch)
    added: tuple[Added, ...] = ()
    forgotten: tuple[str, ...] = ()

    def turned(self, which: Which, upstream: str | None, value: str) -> Switches:
        """One switch turned, for one upstream or for all."""
        made: Switch = getattr(self, which).turned(upstream, value)
        if which == "pause":
            return replace(self, pause=made)
        if which == "drain":
            return replace(self, drain=made)
        return replace(self, bypass=made)

    def with_added(self, upstream: Added) -> Switches:
        """One more upstream; its name and its URL are nobody else's among the added ones."""
        others = [a for a in self.added if upstream.name != a.name and upstream.url != a.url]
        forgotten = tuple(url for url in self.forgotten if url != upstream.url)
        return replace(self, added=(*others, upstream), forgotten=forgotten)

    def without(self, upstream: Upstream) -> Switches:
        """One upstream less, with what was switched for it; one that was found will not be found again."""
        forgotten = self.forgotten
        if upstream.found_by == "discovered" and upstream.url not in forgotten:
            forgotten = (*forgotten, upstream.url)
        less = replace(
            self,
            added=tuple(a for a in self.added if a.name != upstream.name),
            forgotten=forgotten,
        )
        for which in ("pause", "drain", "bypass"):
            switch: Switch = getattr(less, which)
            less = less.turned(which, upstream.name, switch.everywhere)
        return less

    def in_force(self, others: Iterable[Upstream]) -> tuple[Upstream, ...]:
        """
        All upstreams: what is configured comes first, then what was added.

        Args:
            others: configured, given by flag, or discovered.
        """
        kept = [u for u in others if u.found_by != "discovered" or u.url not in self.forgotten]
        names, urls = {u.name for u in kept}, {u.url for u in kept if u.found_by != "discovered"}
        added = [a.upstream() for a in self.added if a.name not in names and a.url not in urls]
        again = {a.url for a in added}
        kept = [u for u in kept if u.found_by != "discovered" or u.url not in again]
        return (*kept, *added)


def share(switch: Switch, upstreams: Iterable[str]) -> Literal["none", "some", "all"]:
    """For how many of *upstreams* a switch is on."""
    on = [bool(switch.at(name)) for name in upstreams]
    if not on:
        return "all" if switch.everywhere else "none"
    return "all" if all(on) else "some" if any(on) else "none"


# What is kept


def to_document(switches: Switches) -> dict[str, Any]:
    """What is kept across restarts, as JSON."""
    value: dict[str, Any] = {}
    for which in _KEPT:
        switch: Switch = getattr(switches, which)
        value[which] = {"everywhere": switch.everywhere, "upstreams": dict(switch.named)}
    value["added"] = [
        {
            "name": a.name,
            "url": a.url,
            "local": a.local,
            "kind": a.kind.value if a.kind is not None else None,
            "models": list(a.models),
        }
        for a in switches.added
    ]
    value["forgotten"] = list(switches.forgotten)
    return value


def from_document(value: Any) -> Switches:
    """
    The switches that a document tells. What a later version added to it is passed over.

    Raises:
        ValueError: it is none, with what is wrong in it.
    """
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    found = Switches()
    for which in _KEPT:
        for upstream, wanted in _switch(which, value.get(which, {})):
            found = found.turned(which, upstream, wanted)
    added = value.get("added", [])
    if not isinstance(added, list) or len(added) > _MOST_ADDED:
        raise ValueError(f"added: expected a list of at most {_MOST_ADDED}")
    for one in added:
        found = found.with_added(_added(one))
    return replace(found, forgotten=tuple(_texts("forgotten", value.get("forgotten", []))))


def _switch(which: Which, value: Any) -> list[tuple[str | None, str]]:
    if not isinstance(value, dict):
        raise ValueError(f"{which}: expected an object")
    named = value.get("upstreams", {})
    if not isinstance(named, dict):
        raise ValueError(f"{which}.upstreams: expected an object")
    turns: list[tuple[str | None, Any]] = [(None, value.get("everywhere", OFF)), *named.items()]
    for _, wanted in turns:
        if not isinstance(wanted, str) or wanted not in {OFF, *VALUES[which]}:
            raise ValueError(f"{which}: {wanted!r} is none of its values")
    return turns


def _added(value: Any) -> Added:
    if not isinstance(value, dict):
        raise ValueError("added: expected objects")
    name, url, local, kind = (value.get(part) for part in ("name", "url", "local", "kind"))
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME:
        raise ValueError("added.name: expected a name")
    if not isinstance(url, str) or "://" not in url:
        raise ValueError(f"added.url: expected the URL of {name}")
    if local not in (None, True, False):
        raise ValueError(f"added.local: expected true, false or null for {name}")
    if kind is not None and kind not in set(ServerKind):
        raise ValueError(f"added.kind: {kind!r} is no kind of server")
    models = tuple(_texts("added.models", value.get("models", [])))
    return Added(name, url, local, None if kind is None else ServerKind(kind), models)


def _texts(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{where}: expected a list of texts")
    return value
