"""Which upstream a model's name leads to (contracts 7). Pure. Never implicitly to a cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from penstock.domain.change import Change
from penstock.domain.upstream import Locality
from penstock.errors import ErrorCode, RequestError

_MOST_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """An upstream as routing sees it; `wait_s` is the wait a new request would likely have."""

    name: str
    locality: Locality
    models: tuple[str, ...]
    healthy: bool = True
    free_slots: int = 1
    wait_s: float = 0.0


class Resolution(NamedTuple):
    """
    Attributes:
        upstream: its name.
        model: the id at that upstream.
        changes: what is announced when the client's name was not that id.
        how: `exact`, `alias`, `upstream/model`, `latest`, `only model`, `default`, `named`.
    """

    upstream: str
    model: str
    changes: tuple[Change, ...] = ()
    how: str = "exact"


def resolve(
    model: str,
    *,
    upstreams: Sequence[Candidate],
    aliases: Mapping[str, str],
    default_upstream: str | None = None,
    explicit_upstream: str | None = None,
) -> Resolution:
    """
    Find the upstream for *model*.

    1. the path named the upstream; 2. the exact id; 3. an alias, by name, then by pattern;
    4. `upstream/model`; 5. `:latest`; 6. any name, if there is exactly one local upstream with one model;
    7. the configured default.

    Raises:
        RequestError: `model_not_found`, with the names that exist.
    """
    by_name = {candidate.name: candidate for candidate in upstreams}
    if explicit_upstream is not None:
        if explicit_upstream not in by_name:
            names = ", ".join(by_name) or "none"
            raise RequestError(
                ErrorCode.MODEL_NOT_FOUND,
                f"No upstream is called {explicit_upstream[:100]!r}; there are: {names}.",
            )
        candidate = by_name[explicit_upstream]
        return _one(candidate, model) or Resolution(candidate.name, model, (), "named")
    return _find(model, upstreams, by_name, aliases) or _last_resort(
        model, upstreams, by_name, aliases, default_upstream
    )


def _find(
    model: str,
    upstreams: Sequence[Candidate],
    by_name: Mapping[str, Candidate],
    aliases: Mapping[str, str],
    depth: int = 0,
) -> Resolution | None:
    if not model:
        return None
    exact = _best([c for c in upstreams if model in c.models])
    if exact is not None:
        return Resolution(exact.name, model)
    target = _alias(model, aliases)
    if target is not None and depth < 4:
        found = _find(target, upstreams, by_name, aliases, depth + 1)
        if found is not None:
            told = Change("route", "model", "rewritten", f"{model} is an alias of {target}")
            return Resolution(found.upstream, found.model, (told,), "alias")
    name, slash, rest = model.partition("/")
    if slash and name in by_name and rest:
        inner = _one(by_name[name], rest)
        if inner is not None:
            return Resolution(inner.upstream, inner.model, (), "upstream/model")
        return Resolution(name, rest, (), "upstream/model")
    tagged = f"{model}:latest" if ":" not in model else model.removesuffix(":latest")
    latest = _best([c for c in upstreams if tagged in c.models])
    if latest is not None:
        return Resolution(latest.name, tagged, (), "latest")
    return None


def _alias(model: str, aliases: Mapping[str, str]) -> str | None:
    """What *model* is an alias of: by name, then by pattern; None when it is none."""
    return aliases.get(model) or next(
        (to for pattern, to in aliases.items() if "*" in pattern and fnmatchcase(model, pattern)),
        None,
    )


def _last_resort(
    model: str,
    upstreams: Sequence[Candidate],
    by_name: Mapping[str, Candidate],
    aliases: Mapping[str, str],
    default: str | None,
) -> Resolution:
    local = [c for c in upstreams if c.locality is Locality.LOCAL]
    if len(local) == 1 and len(local[0].models) == 1:
        only = local[0].models[0]
        told = Change("route", "model", "rewritten", f"{only} is the only model there is")
        return Resolution(local[0].name, only, (told,) if model != only else (), "only model")
    if default is not None and default in by_name:
        candidate = by_name[default]
        if not model and len(candidate.models) == 1:
            return Resolution(default, candidate.models[0], (), "default")
        # An alias holds there too: not every upstream lists what it has (a cloud is never asked).
        target = _alias(model, aliases) if model else None
        if target is not None:
            told = Change("route", "model", "rewritten", f"{model} is an alias of {target}")
            return Resolution(default, target, (told,), "default")
        return Resolution(default, model, (), "default")
    names = [name for candidate in upstreams for name in candidate.models]
    shown = ", ".join(dict.fromkeys(names[:_MOST_NAMES_SHOWN])) or "none"
    more = f" and {len(names) - _MOST_NAMES_SHOWN} more" if len(names) > _MOST_NAMES_SHOWN else ""
    asked = f"the model {model[:200]!r}" if model else "a request that names no model"
    raise RequestError(
        ErrorCode.MODEL_NOT_FOUND,
        f"No upstream answers for {asked}. There are: {shown}{more}.",
        hint="GET /v1/models lists them; routing.aliases gives a model another name.",
        param="model",
    )


def _one(candidate: Candidate, model: str) -> Resolution | None:
    for name in (model, f"{model}:latest"):
        if name in candidate.models:
            return Resolution(candidate.name, name, (), "named")
    if not model and len(candidate.models) == 1:
        return Resolution(candidate.name, candidate.models[0], (), "named")
    return None


def _best(candidates: Sequence[Candidate]) -> Candidate | None:
    """
    The healthy one with a free slot, else the shortest wait; local before cloud. The wait decides first: whoever
    has a free slot has none, unless it fails so much that its slot is free for that reason.
    """
    if not candidates:
        return None
    return min(
        candidates,
        key=lambda c: (
            c.locality is not Locality.LOCAL,
            not c.healthy,
            c.wait_s,
            c.free_slots <= 0,
        ),
    )
