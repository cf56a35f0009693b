"""
Which model server answers there, by what it answers (behaviours A5).

All kinds' probes are asked side by side; then every kind looks at all the answers, most specific kind
first, so that a server which imitates another is known by what only it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.upstream import Evidence, ServerKind
from penstock.servers import SPECS
from penstock.servers.base import Answers, Probe


@dataclass(frozen=True, slots=True)
class Recognition:
    """
    What was recognised.

    Attributes:
        kind: None when nothing of an API for models was seen.
        confidence: 0 to 1.
        evidence: what spoke for it, and for others.
        version: the server's version, None when it does not say.
    """

    kind: ServerKind | None
    confidence: float
    evidence: tuple[Evidence, ...]
    version: str | None = None


def fingerprint_probes() -> tuple[Probe, ...]:
    """Everything to ask, once each."""
    unique = {probe.key: probe for spec in SPECS.values() for probe in spec.probes}
    return tuple(unique.values())


def recognise(answers: Answers) -> Recognition:
    """The kind that matches best; the more specific one where two match equally well."""
    matches = [
        (spec.kind, found) for spec in SPECS.values() if (found := spec.fingerprint(answers))
    ]
    if not matches:
        return Recognition(None, 0.0, ())
    kind, best = max(matches, key=lambda pair: pair[1].confidence)
    evidence = [Evidence("probe", kind.value, because) for because in best.because]
    for other, found in matches:
        if other is not kind and other is not ServerKind.GENERIC:
            evidence += [Evidence("probe", other.value, b, decisive=False) for b in found.because]
    return Recognition(kind, best.confidence, tuple(evidence), best.version)


def is_penstock(answers: Answers) -> bool:
    """Whether it is a Penstock gateway that answers: never taken for a model server."""
    return any(
        answer.headers.get("server", "").lower().startswith("penstock")
        for answer in answers.values()
    )
