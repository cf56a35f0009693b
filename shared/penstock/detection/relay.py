"""
Signs that a server on this machine only relays to a cloud (behaviours A4, contracts 3).

LiteLLM, one-api and their kin listen on loopback and send the prompts away. Requests to them leave the
machine, so nothing may be changed in them: they count as cloud.
"""

from __future__ import annotations

from penstock.detection.fingerprint import recognise
from penstock.domain.upstream import Evidence, ServerKind
from penstock.servers.base import Answers
from penstock.servers.common import listed, owners

# Headers that only the clouds' own front ends set; a relay passes them on or sets its own.
_CLOUD_HEADERS = {
    "openai-organization": "OpenAI",
    "openai-processing-ms": "OpenAI",
    "anthropic-organization-id": "Anthropic",
    "x-litellm-version": "LiteLLM",
    "x-litellm-model-id": "LiteLLM",
    "x-openrouter-version": "OpenRouter",
    "x-portkey-trace-id": "Portkey",
}
_CLOUD_OWNERS = frozenset({"openai", "openai-internal", "system", "anthropic", "google", "azure"})


def relay_evidence(answers: Answers) -> tuple[Evidence, ...]:
    """What in the answers says that requests go on to a cloud; empty for nothing."""
    found: list[Evidence] = []
    for answer in answers.values():
        for header, who in _CLOUD_HEADERS.items():
            if header in answer.headers:
                found.append(
                    Evidence("probe", "cloud", f"its answers carry {who}'s header {header}")
                )
    named = owners(answers)
    # A server that was recognised lists what it runs itself: Ollama gives the namespace of a model as its
    # owner, and `hf.co/google/...` is no cloud.
    unknown = recognise(answers).kind in (None, ServerKind.GENERIC)
    if unknown and named and named <= _CLOUD_OWNERS and listed(answers):
        told = ", ".join(sorted(named))
        found.append(Evidence("probe", "cloud", f"all of its models are owned by {told}"))
    return tuple(dict.fromkeys(found))
