"""How a conversation that outgrows the window is made to fit (contracts 1 and 9)."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """
    What is done with a conversation that is too long.

    `window`: the oldest turns go. `summary`: these are summarised by the model itself. `client`: the
    client is told, so that it can compact; when it comes back too long, `window`. `reset`: all goes but
    what is never dropped. `off`: nothing is cut, what does not fit is refused.
    """

    WINDOW = "window"
    SUMMARY = "summary"
    CLIENT = "client"
    RESET = "reset"
    OFF = "off"
