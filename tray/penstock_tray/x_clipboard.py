"""
Owns X's clipboard with the text of its standard input, where no program for that is installed; ends when another one
takes it over. X has no place for copied text: whoever copies must stay to hand it out.

`python -m penstock_tray.x_clipboard` returns once the text is there, and goes on in the background.

Source: Inter-Client Communication Conventions Manual 2.0, section 2. `Xlib` comes with pystray.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Copy what comes in."""
    from Xlib import X, Xatom, display
    from Xlib.protocol import event

    text = sys.stdin.buffer.read()
    connection = display.Display()
    window = connection.screen().root.create_window(0, 0, 1, 1, 0, 0)
    clipboard, targets, utf8 = (
        connection.intern_atom(name) for name in ("CLIPBOARD", "TARGETS", "UTF8_STRING")
    )
    window.set_selection_owner(clipboard, X.CurrentTime)
    connection.sync()
    if connection.get_selection_owner(clipboard) != window:
        return 1
    if hasattr(os, "fork"):
        if os.fork():
            os._exit(0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # whoever started this waits for the ends of its pipes
            os.dup2(nowhere, number)
    while True:
        said = connection.next_event()
        if said.type == X.SelectionClear:
            return 0
        if said.type != X.SelectionRequest:
            continue
        place = said.property or said.target
        if said.target == targets:
            said.requestor.change_property(place, Xatom.ATOM, 32, [targets, utf8, Xatom.STRING])
        elif said.target in (utf8, Xatom.STRING):
            said.requestor.change_property(place, said.target, 8, text)
        else:
            place = X.NONE
        said.requestor.send_event(
            event.SelectionNotify(
                time=said.time, requestor=said.requestor, selection=said.selection,
                target=said.target, property=place,
            )
        )  # fmt: skip
        connection.flush()


if __name__ == "__main__":
    sys.exit(main())
