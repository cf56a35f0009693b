"""Content parts of a Responses message as neutral parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects.shapes import dropped, needed_text, refused, wrong
from penstock.domain.change import Change
from penstock.domain.chat import ImagePart, OtherPart, Part, TextPart

_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def read_parts(content: Any, where: str, changes: list[Change]) -> list[Part]:
    """
    The parts of a message or of a tool's result.

    Raises:
        RequestError: a part has the wrong shape, or names a file that only OpenAI has.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [TextPart(content)]
    if not isinstance(content, list):
        raise wrong(where, "a string or an array", content)
    parts: list[Part] = []
    for number, part in enumerate(content):
        place = f"{where}[{number}]"
        if not isinstance(part, dict):
            raise wrong(place, "an object", part)
        kind = needed_text(part, "type", place)
        if kind in _TEXTS:
            parts.append(TextPart(needed_text(part, "text", place)))
        elif kind == "refusal":
            parts.append(TextPart(needed_text(part, "refusal", place)))
        elif kind == "input_image":
            parts.append(_image(part, place))
        elif kind == "input_file":
            parts.append(_file(part, place))
        elif kind == "input_audio":
            parts.append(OtherPart(part))
        else:
            changes.append(dropped(place, f"no local model understands {kind[:60]} parts"))
    return parts


def _image(part: Mapping[str, Any], where: str) -> ImagePart:
    url = part.get("image_url")
    if isinstance(url, dict):  # the chat dialect's form, which clients mix in
        url = url.get("url")
    if url is None and part.get("file_id") is not None:
        raise refused(
            f"{where}.file_id",
            f"{where}.file_id: Penstock stores no files; send the image as a data URL in image_url.",
        )
    if not isinstance(url, str):
        raise wrong(f"{where}.image_url", "a URL", url)
    detail = part.get("detail")
    detail = detail if isinstance(detail, str) else None
    if not url.startswith("data:"):
        return ImagePart(url=url, detail=detail)
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        raise wrong(f"{where}.image_url", "a base64 data URL", url[:40])
    return ImagePart(data=data, media_type=head.removesuffix(";base64"), detail=detail)


def _file(part: Mapping[str, Any], where: str) -> OtherPart:
    """In the chat dialect's form; whether the server can take it is the server's to say."""
    if not isinstance(part.get("file_data"), str):
        raise refused(
            f"{where}.file_data",
            f"{where}: Penstock stores and fetches no files; send the file itself in file_data.",
        )
    file = {name: part[name] for name in ("filename", "file_data") if name in part}
    return OtherPart({"type": "file", "file": file})
