"""
Content blocks of a Messages request as neutral parts.

What a chat server has no block for and what is text nevertheless (documents, search results, references to
tools) is told as text. Kinds: `anthropic.types.content_block_param`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects.shapes import (
    dropped,
    needed_text,
    refused,
    text_in,
    wrong,
)
from penstock.domain.change import Change
from penstock.domain.chat import ImagePart, Part, TextPart


def blocks_of(content: Any, where: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """
    The kind, the place and the value of each block; a text is one block.

    Raises:
        RequestError: it is neither a text nor a list of blocks.
    """
    if isinstance(content, str):
        return [("text", where, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise wrong(where, "a string or an array", content)
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for number, block in enumerate(content):
        place = f"{where}[{number}]"
        if not isinstance(block, dict):
            raise wrong(place, "an object", block)
        found.append((needed_text(block, "type", place), place, block))
    return found


def joined_texts(content: Any, where: str) -> str:
    """
    The text of blocks that may be texts only: system prompts.

    A block is a paragraph of its own, so that a line at the head of one stays a line.
    """
    texts = []
    for kind, place, block in blocks_of(content, where):
        if kind != "text":
            raise wrong(f"{place}.type", "text", kind)
        texts.append(needed_text(block, "text", place))
    return "\n\n".join(text for text in texts if text)


def read_block(
    kind: str, block: Mapping[str, Any], where: str, changes: list[Change]
) -> list[Part]:
    """
    One block that may stand in any message and in a tool's result.

    Raises:
        RequestError: it has the wrong shape, or names a file that only Anthropic has.
    """
    if kind == "text":
        if block.get("citations"):
            changes.append(dropped(f"{where}.citations", "no local model cites"))
        return [TextPart(needed_text(block, "text", where))]
    if kind == "image":
        return [_image(block, where, changes)]
    if kind == "document":
        return _document(block, where, changes)
    if kind == "search_result":
        return [_search_result(block, where, changes)]
    if kind == "tool_reference":
        name = needed_text(block, "tool_name", where)
        changes.append(
            Change("template", where, "rewritten", "a reference to a tool is told as text")
        )
        return [TextPart(f"The tool {name} can be called.")]
    changes.append(dropped(where, f"no local model understands {kind[:60]} blocks"))
    return []


def _source(block: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any], str]:
    source = block.get("source")
    place = f"{where}.source"
    if not isinstance(source, dict):
        raise wrong(place, "an object", source)
    return needed_text(source, "type", place), source, place


def _image(block: Mapping[str, Any], where: str, changes: list[Change]) -> ImagePart:
    kind, source, place = _source(block, where)
    if block.get("transformations"):
        changes.append(dropped(f"{where}.transformations", "the server scales images by itself"))
    if kind == "base64":
        media_type = needed_text(source, "media_type", place)
        return ImagePart(data=needed_text(source, "data", place), media_type=media_type)
    if kind == "url":
        return ImagePart(url=needed_text(source, "url", place))
    if kind == "file":
        raise refused(place, f"{place}: Penstock stores no files; send the image as base64.")
    raise wrong(f"{place}.type", "one of base64, url", kind)


def _document(block: Mapping[str, Any], where: str, changes: list[Change]) -> list[Part]:
    """What names it (`title`, `context`), then what it says."""
    kind, source, place = _source(block, where)
    title = text_in(block, "title", f"{where}.title")
    context = text_in(block, "context", f"{where}.context")
    _no_citations(block, where, changes)
    named: list[Part] = [TextPart(text) for text in (title, context) if text]
    if kind == "text":
        return [*named, TextPart(needed_text(source, "data", place))]
    if kind == "base64":
        media_type = needed_text(source, "media_type", place)
        needed_text(source, "data", place)
        # No local server reads these: llama.cpp refuses the request, and every later turn that still holds it.
        changes.append(dropped(where, f"no local server reads documents of {media_type[:60]}"))
        return [*named, TextPart(f"[A document ({media_type}) that could not be read stood here.]")]
    if kind == "content":
        inner: list[Part] = []
        for part_kind, part_place, part in blocks_of(source.get("content"), f"{place}.content"):
            if part_kind not in ("text", "image"):
                raise wrong(f"{part_place}.type", "one of text, image", part_kind)
            inner += read_block(part_kind, part, part_place, changes)
        return [*named, *inner]
    if kind in ("url", "file"):
        raise refused(
            place,
            f"{place}: Penstock stores and fetches no files; send the document itself, as text or base64.",
        )
    raise wrong(f"{place}.type", "one of text, base64, content", kind)


def _search_result(block: Mapping[str, Any], where: str, changes: list[Change]) -> TextPart:
    _no_citations(block, where, changes)
    changes.append(Change("template", where, "rewritten", "a search result is told as text"))
    told = [needed_text(block, name, where) for name in ("title", "source")]
    told.append(joined_texts(block.get("content"), f"{where}.content"))
    return TextPart("\n".join(told))


def _no_citations(block: Mapping[str, Any], where: str, changes: list[Change]) -> None:
    asked = block.get("citations")
    if isinstance(asked, dict) and asked.get("enabled"):
        changes.append(dropped(f"{where}.citations", "no local model cites"))
