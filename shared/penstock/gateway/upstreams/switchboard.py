"""
The switches of this gateway: in force at its upstreams, and kept in `state.json`.

What was switched is known here and nowhere else; upstreams that come later (a reload, an added one) find it
set. `gateway.controls` turns the switches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from penstock.adapters import state_file
from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.switches import Switches

log = logging.getLogger("penstock.gateway")


class Switchboard:
    """
    Attributes:
        switches: as they are now.
        others: the upstreams that come from elsewhere: configured, given by flag, discovered.
        port: under which they are kept; 0 for a gateway that keeps nothing.
        notice: what was wrong with what was kept, None for nothing.
    """

    def __init__(self, port: int = 0) -> None:
        kept = state_file.read(port)
        self.port = port
        self.switches: Switches = kept.switches
        self.notice = kept.notice
        self.others: tuple[Upstream, ...] = ()
        self._writing = asyncio.Lock()

    def in_force(self, others: tuple[Upstream, ...]) -> tuple[Upstream, ...]:
        """All upstreams, from those that come from elsewhere."""
        self.others = others
        return self.switches.in_force(others)

    def settle(self, fleet: Fleet, before: Iterable[UpstreamState] = ()) -> None:
        """
        Set every upstream's gate by the switches.

        Args:
            before: the upstreams until now: who is held in front of one that is gone goes on.
        """
        for state in fleet:
            state.gate.set_by(self.switches, state.declared, state.holding)
        now = set(fleet)
        for state in before:
            if state not in now:
                if state.upstream.endpoints == "dns":
                    state.gate.is_gone = True
                    state.limiter.turn_away()
                for reason in state.holding.reasons:
                    state.holding.end(reason)

    async def keep(self) -> bool:
        """Write down what is switched. Returns whether it survives a restart."""
        if self.port == 0:
            return False
        async with self._writing:
            try:
                await asyncio.to_thread(state_file.write, self.port, self.switches)
            except OSError as exc:
                self.notice = f"What is switched cannot be kept: {exc}"
                log.warning("what is switched cannot be kept: %s", exc)
                return False
        self.notice = None
        return True
