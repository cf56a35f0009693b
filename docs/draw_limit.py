"""
Draws `limit.svg`: the limit, and what gets through, over virtual time, in front of the simulated servers of
`tests/virtual_servers.py`. Run `python docs/draw_limit.py` after a change of the limit; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "shared")]

from virtual_servers import SCENES, Fixed, Run, Scene

FILE = Path(__file__).with_name("limit.svg")
SHOWN = {
    "eight slots": "Eight slots, told by the server",
    "ten slots that it does not tell": "Ten slots that the server does not tell, and four assumed",
    "one slot that it does not tell": "One slot that the server does not tell, and four assumed",
    "thrashing past four of eight slots": "Eight slots, but it thrashes past four",
    "thrashing past six": "No slots told, and it thrashes past six",
    "unified KV": "A KV cache that all share: with seven, requests begin to fail",
    "a cold load in the middle": "Four slots; the model goes, and is loaded again",
    "a noisy neighbour": "Thrashes past six; another client takes four places from 3:00 to 5:00",
}
UNTIL_S, SEED, BLOCK_S = 420.0, 3, 15.0
WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 760, 48, 150, 44, 84, 50
LIMIT, FLOW, LINE, FADED, TEXT = "#d1495b", "#b9d3ea", "#444444", "#999999", "#222222"


def drawing() -> str:
    """The picture."""
    height = TOP + len(SHOWN) * (PANEL + GAP) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        f' font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">',
        "<title>The limit over seven minutes, in front of eight servers</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (name, title) in enumerate(SHOWN.items()):
        lines += _panel(TOP + number * (PANEL + GAP), title, SCENES[name])
    lines += [*_legend(height - 14), "</svg>"]
    return "\n".join(lines) + "\n"


def _panel(top: int, title: str, scene: Scene) -> Iterator[str]:
    run = scene.play(scene.limit(), until_s=UNTIL_S, seed=SEED)
    fixed = {n: scene.play(Fixed(n), until_s=UNTIL_S, seed=1) for n in range(1, scene.at_most + 1)}
    best = max(fixed, key=lambda number: fixed[number].goodput(60, UNTIL_S))
    most = max(scene.start, best, *(number for _, number in run.limits)) + 1
    bottom = top + PANEL
    share = run.goodput(60, UNTIL_S) / fixed[best].goodput(60, UNTIL_S)
    yield f'<text x="{LEFT}" y="{top - 10}" font-weight="600">{title}</text>'
    best_there = max(flow for n in fixed for flow in _flows(fixed[n]))
    for number, flow in enumerate(_flows(run)):
        x = _x(number * BLOCK_S)
        high = min(1.0, flow / best_there) * PANEL
        wide = _x(BLOCK_S) - _x(0.0) - 0.8
        yield (
            f'<rect x="{x:.1f}" y="{bottom - high:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{FLOW}"/>'
        )
    yield f'<polyline points="{_steps(run, bottom, most)}" fill="none" stroke="{LIMIT}" stroke-width="1.6"/>'
    for text, at in ((f"best fixed: {best}", best),):
        y = bottom - PANEL * at / most
        yield (
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{LINE}"'
            ' stroke-dasharray="5 3" stroke-width="0.8"/>'
        )
        yield f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}">{text}</text>'
    yield f'<text x="{WIDTH - RIGHT + 6}" y="{bottom + 2}" fill="{LINE}">{share:.0%} of its goodput</text>'
    yield f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{LINE}"/>'
    for number in {1, best, most - 1}:
        y = bottom - PANEL * number / most
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{LIMIT}">{number}</text>'
    for minute in range(int(UNTIL_S // 60) + 1):
        yield (
            f'<text x="{_x(minute * 60.0):.1f}" y="{bottom + 14}" text-anchor="middle" fill="{LINE}">{minute}:00</text>'
        )


def _x(at_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / UNTIL_S


def _flows(run: Run) -> list[float]:
    blocks = int(UNTIL_S / BLOCK_S)
    return [run.goodput(n * BLOCK_S, (n + 1) * BLOCK_S) for n in range(blocks)]


def _steps(run: Run, bottom: int, most: int) -> str:
    points = []
    for (at, number), (until, _) in zip(run.limits, [*run.limits[1:], (UNTIL_S, 0)], strict=True):
        y = bottom - PANEL * number / most
        points += [f"{_x(at):.1f},{y:.1f}", f"{_x(until):.1f},{y:.1f}"]
    return " ".join(points)


def _legend(y: int) -> Iterator[str]:
    x = LEFT
    for colour, text, room in (
        (LIMIT, "the limit", 90),
        (
            FLOW,
            "what gets through in 15 s (full height: the most that any fixed limit ever got)",
            0,
        ),
    ):
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 15}" y="{y}">{text}</text>'
        x += room


if __name__ == "__main__":
    FILE.write_text(drawing(), "utf-8")
