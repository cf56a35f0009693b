"""
Draws the icon: each state has a shape of its own, so it is told apart without colour.

Drawn four times too large and scaled down. A light rim keeps the shape readable on dark panels, and the fill on light
ones.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageChops, ImageDraw

from penstock_tray.icon_state import IconState

SIZES = (22, 24, 32, 48, 64)
_COLOURS = {
    "off": (128, 128, 128), "starting": (200, 140, 20), "ok": (46, 160, 67),
    "degraded": (227, 160, 8), "error": (207, 34, 46),
}  # fmt: skip
_WHITE, _BLUE = (255, 255, 255, 255), (9, 105, 218, 255)


def template(icon: IconState, size: int) -> Image.Image:
    """The icon in black, its light parts cut out, as macOS recolours it for light and dark bars."""
    drawn = draw(icon, size)
    red, _, blue, alpha = drawn.split()
    light = ImageChops.darker(red, blue).point(lambda value: 255 if value > 200 else 0)
    black = Image.new("L", drawn.size, 0)
    return Image.merge("RGBA", (black, black, black, ImageChops.subtract(alpha, light)))


def draw(icon: IconState, size: int) -> Image.Image:
    """The icon, *size* pixels square, on nothing."""
    w = size * 4
    image = Image.new("RGBA", (w, w), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    colour = (*_COLOURS[icon.state], 255)
    box, line = (w * 0.06, w * 0.06, w * 0.94, w * 0.94), round(w * 0.12)
    match icon.state:
        case "off":
            pen.ellipse((w * 0.03, w * 0.03, w * 0.97, w * 0.97), outline=_WHITE, width=w // 5)
            pen.ellipse(box, outline=colour, width=line)
        case "starting":
            for start in range(0, 360, 60):
                pen.arc(box, start, start + 36, fill=colour, width=line)
        case "ok":
            pen.ellipse(box, fill=colour, outline=_WHITE, width=w // 32)
            tick = [(w * 0.28, w * 0.52), (w * 0.44, w * 0.68), (w * 0.73, w * 0.35)]
            pen.line(tick, fill=_WHITE, width=line, joint="curve")
        case "degraded":
            corners = [(w * 0.5, w * 0.04), (w * 0.97, w * 0.93), (w * 0.03, w * 0.93)]
            pen.polygon(corners, fill=colour, outline=_WHITE, width=w // 32)
            pen.rectangle((w * 0.45, w * 0.35, w * 0.55, w * 0.66), fill=_WHITE)
            pen.rectangle((w * 0.45, w * 0.74, w * 0.55, w * 0.84), fill=_WHITE)
        case "error":
            pen.rectangle(box, fill=colour, outline=_WHITE, width=w // 32)
            pen.line((w * 0.28, w * 0.28, w * 0.72, w * 0.72), fill=_WHITE, width=line)
            pen.line((w * 0.72, w * 0.28, w * 0.28, w * 0.72), fill=_WHITE, width=line)
    if icon.badge:
        corner = (w * 0.52, w * 0.52, w * 0.99, w * 0.99)
        pen.ellipse(corner, fill=_BLUE, outline=_WHITE, width=w // 24)
        if icon.badge == "paused":
            pen.rectangle((w * 0.66, w * 0.64, w * 0.72, w * 0.87), fill=_WHITE)
            pen.rectangle((w * 0.79, w * 0.64, w * 0.85, w * 0.87), fill=_WHITE)
        else:
            pen.rectangle((w * 0.62, w * 0.72, w * 0.89, w * 0.79), fill=_WHITE)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def pixmaps(icon: IconState) -> list[list[Any]]:
    """As a StatusNotifierItem wants it: width, height and ARGB in network byte order, in all sizes."""
    made: list[list[Any]] = []
    for size in SIZES:
        red, green, blue, alpha = draw(icon, size).split()
        made.append([size, size, Image.merge("RGBA", (alpha, red, green, blue)).tobytes()])
    return made
