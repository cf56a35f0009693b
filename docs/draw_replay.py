"""
Draws `watermark-replay.svg`: what is sent of one conversation, request by request, by the product's own planner
and by a window that slides. Run `python docs/draw_replay.py` after a change of the planner; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "shared")]

from long_conversations import conversation
from penstock.compress import ContextOptions
from reckoning import BytesByFour, Step, steps, watermarks
from ways import sliding

FILE = Path(__file__).with_name("watermark-replay.svg")
WINDOW, TURNS, SEED = 2048, 60, 3
WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 760, 56, 116, 46, 170, 62
SAME, NEW, LINE, FADED, TEXT = "#b9d3ea", "#d1495b", "#444444", "#999999", "#222222"


def drawing() -> str:
    """The picture."""
    weights = BytesByFour()
    messages = list(conversation(SEED, TURNS).requests())
    marks = ContextOptions().calm
    ours = list(steps(messages, watermarks(weights, WINDOW), weights))
    naive = list(steps(messages, sliding(weights, WINDOW), weights))
    height = TOP + 2 * PANEL + GAP + 58
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        f' font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">',
        f"<title>One conversation of {TURNS} turns in a window of {WINDOW:,} tokens</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_panel(
            TOP,
            "Watermark replay: rarely, and then much",
            ours,
            [(marks.high, f"high {marks.high:g}"), (marks.low, f"low {marks.low:g}")],
        ),
        *_panel(
            TOP + PANEL + GAP, "A sliding window: a little, again and again", naive, [(0.9, "0.9")]
        ),
        *_legend(height - 16),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(
    top: int, title: str, taken: Sequence[Step], marks: list[tuple[float, str]]
) -> Iterator[str]:
    across = (WIDTH - LEFT - RIGHT) / len(taken)
    bottom = top + PANEL

    def y(tokens: float) -> float:
        return bottom - PANEL * tokens / WINDOW

    worked = sum(step.new for step in taken)
    yield f'<text x="{LEFT}" y="{top - 22}" font-weight="600">{title}</text>'
    yield (
        f'<text x="{LEFT}" y="{top - 7}" fill="{LINE}">{worked:,} tokens worked on in {len(taken)} requests; '
        f"the prefix moved {sum(step.moved for step in taken)} times</text>"
    )
    for number, step in enumerate(taken):
        x = LEFT + number * across
        yield _bar(x, y(step.same), across, y(0) - y(step.same), SAME)
        yield _bar(x, y(step.same + step.new), across, y(step.same) - y(step.same + step.new), NEW)
    points = " ".join(
        f"{LEFT + (number + 0.5) * across:.1f},{y(step.whole):.1f}"
        for number, step in enumerate(taken)
        if step.whole <= WINDOW
    )
    yield f'<polyline points="{points}" fill="none" stroke="{FADED}" stroke-dasharray="2 2"/>'
    for share, name in [(1.0, f"window {WINDOW:,}"), *marks]:
        at = y(share * WINDOW)
        dash = "" if share == 1.0 else ' stroke-dasharray="5 3"'
        yield (
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="{LINE}"{dash}/>'
        )
        yield f'<text x="{WIDTH - RIGHT + 6}" y="{at + 4:.1f}">{name}</text>'
    yield f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{LINE}"/>'
    yield f'<text x="{LEFT - 6}" y="{bottom + 4}" text-anchor="end">0</text>'
    yield f'<text x="{LEFT}" y="{bottom + 16}" fill="{LINE}">request 1</text>'
    yield (
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 16}" text-anchor="end" fill="{LINE}">{len(taken)}</text>'
    )


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.8, 0.8):.1f}" height="{height:.1f}" '
        f'fill="{colour}"/>'
    )


def _legend(y: int) -> Iterator[str]:
    x = LEFT
    for colour, text, room in (
        (SAME, "as in the request before: the server still has it", 300),
        (NEW, "new to the server: it works on it", 215),
        (FADED, "the whole conversation", 0),
    ):
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 15}" y="{y}">{text}</text>'
        x += room


if __name__ == "__main__":
    FILE.write_text(drawing(), "utf-8")
