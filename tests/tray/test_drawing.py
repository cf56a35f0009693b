"""The icon of each state differs in shape from all others, also without its colour."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

from penstock_tray.drawing import SIZES, draw, pixmaps
from penstock_tray.icon_state import Badge, IconState, State

ALL = [IconState(state, badge) for state in get_args(State) for badge in get_args(Badge)]


def test_shapes_differ_without_colour() -> None:
    """A person who sees no colours tells every state and badge apart."""
    for one, other in combinations(ALL, 2):
        pairs = zip(
            draw(one, 24).convert("LA").tobytes(),
            draw(other, 24).convert("LA").tobytes(),
            strict=True,
        )
        assert sum(abs(a - b) > 60 for a, b in pairs) > 20, (one, other)


def test_pixels_are_argb_in_network_order() -> None:
    """A panel gets alpha first, then red, green and blue."""
    width, height, data = pixmaps(IconState("ok"))[-1]
    assert (width, height, len(data)) == (SIZES[-1], SIZES[-1], SIZES[-1] ** 2 * 4)
    middle = (height // 4 * width + width // 2) * 4
    assert data[middle : middle + 4] == bytes((255, 46, 160, 67))
