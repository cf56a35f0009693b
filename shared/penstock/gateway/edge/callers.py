"""
Who asks, as far as fairness goes: the client key's name, else the peer's address.

On this machine all programs have one address, and they are one person's: there they are told apart by what they
present, or an agent with twenty requests would be one client with the chat window beside it. Elsewhere that would be
a way to get more than one's share.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.gateway.edge.access import is_loopback
from penstock.gateway.edge.incoming import Incoming

_LONGEST_AGENT = 40


def caller_of(incoming: Incoming) -> str:
    """Who a request is from; found out once per connection, since its other requests are from the same."""
    client = incoming.exchange.client
    if client != "anonymous":
        return client
    head = incoming.connection.head
    if head.caller is None:
        peer = incoming.connection.cycle.scope.get("client")
        head.caller = _anonymous(peer[0] if peer else "", incoming.headers)
    return head.caller


def _anonymous(address: str, headers: Mapping[str, str]) -> str:
    if address and not is_loopback(address):
        return address
    agent = headers.get("user-agent", "").partition(" ")[0][:_LONGEST_AGENT]
    shown = f"{address or 'local'} {agent}".rstrip()
    key = headers.get("authorization") or headers.get("x-api-key")
    return shown if key is None else f"{shown} #{hash(key) & 0xFFFF:04x}"
