"""
A permit that a ghost keeps, and who inherits it: the same client with the very same request (`concurrency.left`).

What the ghost works on is what its heir asks for: when it has ended, the server's cache is warm with the prompt, or
the model is loaded. So the heir waits for it, also while another permit is free (there the work would only be done
twice). Who comes when the ghost has ended already goes before all who wait: it had a permit before.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from penstock.errors import ErrorCode, Refused
from penstock.gateway.steps.limiter import Limiter, Permit


class Haunted:
    """
    Args:
        permit: the ghost's.
        kind: what the server is at: the work itself, or loading the model for it.
    """

    __slots__ = ("_ended", "_heir", "_limiter", "_permit", "kind")

    def __init__(self, permit: Permit, limiter: Limiter, kind: Literal["ghost", "load"]) -> None:
        self._permit: Permit | None = permit
        self._limiter = limiter
        self._heir: asyncio.Future[None] | None = None
        self._ended = False
        self.kind = kind

    @property
    def has_heir(self) -> bool:
        """Whether somebody waits for its end."""
        return self._heir is not None

    @property
    def is_over(self) -> bool:
        """Whether the ghost has ended; then there is nothing to wait for."""
        return self._permit is None

    def release(self) -> None:
        """The ghost has ended: the permit goes to the heir, or back."""
        self._ended = True
        heir = self._heir
        if heir is None:
            self._take().release()
        elif not heir.done():
            heir.set_result(None)

    async def inherit(self, deadline_s: float) -> Permit:
        """
        Wait for the ghost's end.

        Raises:
            Refused: it took longer than the request may wait.
            TurnedAway: nobody waits for this upstream any more.
        """
        heir = self._heir = asyncio.get_running_loop().create_future()
        self._limiter.heirs.add(heir)
        try:
            async with asyncio.timeout(deadline_s):
                await heir
            return self._take()
        except BaseException as exc:
            if self._ended:
                self._take().release()  # it was there in the very moment in which nobody waited any more
            if isinstance(exc, TimeoutError):
                raise Refused(
                    ErrorCode.QUEUE_DEADLINE,
                    f"The server has worked for {deadline_s:g} s on this very request, which was given up before.",
                    hint="Ask again: what it has done until then is not lost.",
                    retry_after_s=5.0,
                ) from None
            raise
        finally:
            self._heir = None
            self._limiter.heirs.discard(heir)

    def _take(self) -> Permit:
        permit, self._permit = self._permit, None
        assert permit is not None
        return permit
