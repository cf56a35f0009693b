"""
Which server of several equal ones gets a conversation, so that it finds its prefix in the cache of the last time.

Several gateways must agree without talking to each other: each ranks all members by a hash of the conversation's
prefix and the member's name (rendezvous hashing: a member that comes or goes moves only its own share of the
conversations). The first of that order gets it, but for load: one whose permits are all out gives way to the next
that has one free; when none has, one that has more than its fair share of all that waits gives way (consistent
hashing with bounded loads). Loads are those that this gateway knows, so under load gateways may differ for a
moment; that costs a prefill, never an answer.

Sources: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); Mirrokni, Thorup and
Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FACTOR = 1.25
"""How far above its fair share a member may be. The paper's usual value: little is moved, no queue gets long."""

_BEFORE_THE_FIRST_WORD = ("system", "instructions")
_ITS_FIRST_WORDS = ("messages", "input")
_WITHOUT_TURNS = ("prompt", "query")


@dataclass(frozen=True, slots=True)
class Member:
    """
    One of several equal servers, as placement sees it.

    Attributes:
        name: by which all gateways know it (its address).
        load: requests that this gateway has there, running and waiting.
        permits: requests at a time that this gateway may have there.
        rank: 0 for one that can be expected to answer now, higher for the less likely; only the lowest there is counts.
    """

    name: str
    load: int = 0
    permits: int = 1
    rank: int = 0


def prefix_of(body: Mapping[str, Any]) -> bytes:
    """
    What stays the same in every request of a conversation and tells it from others: what stands before the first
    words of its user, and these words. Of a request without turns: all that it asks.

    The same bytes in every process: a hash of it is compared between gateways.
    """
    found: list[Any] = [body.get("model")]
    found += [body[key] for key in _BEFORE_THE_FIRST_WORD if key in body]
    for key in _ITS_FIRST_WORDS:
        if key in body:
            found.append(_until_the_user(body[key]))
    found += [body[key] for key in _WITHOUT_TURNS if key in body]
    try:
        return json.dumps(found, sort_keys=True, separators=(",", ":"), default=str).encode()
    except RecursionError:  # nested as no conversation is
        return b""


def _until_the_user(turns: Any) -> Any:
    """The turns up to the first one of the user; all of what is no list of turns."""
    if not isinstance(turns, list):
        return turns
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return turns[: number + 1]
    return turns


def order(prefix: bytes, names: Iterable[str]) -> list[str]:
    """*names* in the order in which a conversation wants them; the same for everybody who asks."""
    key = hashlib.blake2b(prefix, digest_size=16).digest()
    return sorted(names, key=lambda name: (_score(key, name), name), reverse=True)


def place(prefix: bytes, members: Sequence[Member]) -> str:
    """
    The member that gets a conversation.

    Among those of the lowest rank, the first in its order that has a permit free; without such a one, the first whose
    load is below `ceil(FACTOR * (all load + 1) * its permits / all permits)`.

    Raises:
        ValueError: there is none.
    """
    if not members:
        raise ValueError("expected at least one member")
    rank = min(member.rank for member in members)
    able = {member.name: member for member in members if member.rank == rank}
    if len(able) == 1:
        return next(iter(able))
    wanted = order(prefix, able)
    free = next((name for name in wanted if able[name].load < able[name].permits), None)
    if free is not None:
        return free
    load = sum(member.load for member in able.values()) + 1
    permits = sum(max(1, member.permits) for member in able.values())
    # There is one, for the bounds add up to more than the load.
    return next(name for name in wanted if _has_room(able[name], load, permits))


def _has_room(member: Member, load: int, permits: int) -> bool:
    return member.load < math.ceil(FACTOR * load * max(1, member.permits) / permits)


def _score(key: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=key, digest_size=8).digest()
