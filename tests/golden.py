"""
Golden files: what was reviewed once is what is made still.

`PENSTOCK_WRITE_GOLDEN=1 python3 tests PATH` writes them anew; the difference is then read like a change of code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Without references, and with texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def check(file: Path, manifests: Iterable[Any]) -> None:
    """*manifests* are what *file* holds."""
    text = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120)
    if os.environ.get("PENSTOCK_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    held = file.read_text("utf-8") if file.is_file() else ""
    assert text == held, f"{file.name} differs; PENSTOCK_WRITE_GOLDEN=1 writes it anew"
