"""Words that sentences are put together from. Pure."""

from __future__ import annotations

import re


def ended(text: str) -> str:
    """With a full stop, so that another sentence can follow."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def refusal(kind: str, name: str, said: str) -> str:
    """That the API server refused an object, and why, in its words without those that only name the object again."""
    again = rf'^\S+ "{re.escape(name)}" is (?:invalid|forbidden): '
    return f"The API server refused the {kind} {name}: {ended(re.sub(again, '', said))}"


def answering(ready: int, whole: int, noun: str, one_does: str, many_do: str) -> str:
    """How many of them do it: `1 of 1 server answers`, `none of 2 servers answers yet`."""
    if not ready and whole > 1:
        return f"none of {whole} {noun}s {one_does} yet"
    return f"{ready} of {whole} {noun}{'s' * (whole != 1)} {one_does if ready <= 1 else many_do}"
