"""
Follows the gateway of this user, whichever runs: waits for one, follows its event stream, waits for the next.

A thread of its own, for the client blocks. It sleeps while nothing happens: the stream is a quiet one, and a gateway
that starts is noticed by the runtime folder (`folder_watch`). After the computer slept the stream goes on where it was,
or ends, and is then opened anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from penstock.adapters.folders import runtime_folder
from penstock.client import Client, GatewayError, NoGateway, NotRunning
from penstock_tray.folder_watch import FolderWatch
from penstock_tray.snapshot import Snapshot, read

_AGAIN_S = 3.0
"""After a gateway that is there did not let itself be followed."""


class Follower(threading.Thread):
    """
    Args:
        told: gets each snapshot; `off` when no gateway runs, `failed` when one broke off without a word, `unclear` when
            it cannot be known which one to follow. Called in this thread.
    """

    def __init__(self, told: Callable[[Snapshot], None], port: int | None = None) -> None:
        super().__init__(name="follower", daemon=True)
        self._told = told
        self._port = port
        self._watch = FolderWatch(runtime_folder())
        self._ended = False

    def run(self) -> None:
        while not self._ended:
            wait_s, seen, after = None, False, Snapshot()
            try:
                with Client.find(self._port) as client:
                    wait_s = _AGAIN_S
                    for name, value in client.events(quiet=True):
                        if self._ended:
                            return
                        if name == "snapshot":
                            seen = True
                            self._told(read(value))
            except NoGateway:
                pass
            except (NotRunning, GatewayError) as exc:
                if wait_s is None:
                    after = Snapshot("unclear", str(exc))
                elif seen:  # a gateway that ends in order ends its streams first
                    after = Snapshot("failed", "it ended by itself")
            if not self._ended:
                self._told(after)
                self._watch.wait(wait_s)

    def end(self) -> None:
        """Stop telling; the thread ends by itself."""
        self._ended = True
        self._watch.wake()
