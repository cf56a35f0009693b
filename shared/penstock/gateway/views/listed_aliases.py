"""
The ids under which aliases are listed. Pure.

Clients list only what they know by name: Claude Code shows ids that begin with `claude` or `anthropic`. So a
pattern stands in the listing too, with its target in the place of its `*`: `claude-*: qwen3-coder:30b` is
listed as `claude-qwen3-coder-30b`, which matches the pattern and leads back to the target. An id that would
lead elsewhere (an earlier pattern takes it, or a model has it) is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from penstock.errors import RequestError
from penstock.gateway.upstreams.resolve import Candidate, Resolution, resolve


def listed_aliases(
    aliases: Mapping[str, str], upstreams: Sequence[Candidate]
) -> Iterator[tuple[str, Resolution]]:
    """
    Each alias that can be asked for, and where it leads.

    Args:
        aliases: name or pattern -> target.
        upstreams: with the models that they list.
    """
    for alias, target in aliases.items():
        leads = _leads(target, aliases, upstreams)
        if leads is None:
            continue
        name = listed_name(alias, leads.model)
        if name is None:
            continue
        back = _leads(name, aliases, upstreams)
        is_alias = back is not None and back.how == "alias"
        if is_alias and (back.upstream, back.model) == (leads.upstream, leads.model):  # type: ignore[union-attr]
            yield name, leads


def alias_of(
    name: str, aliases: Mapping[str, str], upstreams: Sequence[Candidate]
) -> Resolution | None:
    """Where a name leads that is an alias by name or by pattern, listed or not; None when it is none."""
    leads = _leads(name, aliases, upstreams)
    return leads if leads is not None and leads.how == "alias" else None


def listed_name(alias: str, model: str) -> str | None:
    """
    The id of an alias in listings; None for a pattern that has no obvious one.

    Args:
        model: the target's id; slashes and colons in it would read as `upstream/model` and as a tag.
    """
    if re.search(r"[?\[]", alias) or alias.count("*") > 1:
        return None
    return alias.replace("*", re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-"))


def _leads(
    name: str, aliases: Mapping[str, str], upstreams: Sequence[Candidate]
) -> Resolution | None:
    try:
        found = resolve(name, upstreams=upstreams, aliases=aliases)
    except RequestError:
        return None
    return None if found.how in ("only model", "default") else found
