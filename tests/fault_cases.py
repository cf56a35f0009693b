"""
What model servers say when something is wrong, and what it means: one table for every test that needs it.

The cases stand in `tests/fixtures/servers/KIND/faults.json`. Those marked `recorded` were recorded from a
real server (llama.cpp by xllamacpp 2026.10, Ollama 0.17.4), the others written from its sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode

_FOLDER = Path(__file__).parent / "fixtures" / "servers"


@dataclass(frozen=True, slots=True)
class FaultCase:
    """
    One answer of one kind of server, and how it is to be understood.

    Attributes:
        status: None: the text stood inside a stream that had begun with 200.
        body: as it came.
        error: the value of the body's `error`, the whole body where there is none.
        window, prompt: token counts that can be read from the message.
    """

    id: str
    kind: ServerKind
    status: int | None
    body: bytes
    error: Any
    code: ErrorCode
    window: int | None
    prompt: int | None


def _cases(kind: ServerKind) -> list[FaultCase]:
    file = _FOLDER / kind / "faults.json"
    cases = []
    for row in json.loads(file.read_text("utf-8")) if file.exists() else []:
        value = row.get("json", row.get("text"))
        cases.append(
            FaultCase(
                id=f"{kind}: {row['name']}",
                kind=kind,
                status=row["status"],
                body=value.encode() if isinstance(value, str) else json.dumps(value).encode(),
                error=value.get("error", value) if isinstance(value, dict) else value,
                code=ErrorCode(row["code"]),
                window=row.get("window"),
                prompt=row.get("prompt"),
            )
        )
    return cases


CASES: tuple[FaultCase, ...] = tuple(case for kind in ServerKind for case in _cases(kind))
