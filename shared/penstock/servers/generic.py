"""
Any other server that speaks OpenAI's API. Nothing is known of it, so nothing is dropped and nothing taken
for granted: a parameter passes as it is, a plain request stays plain.
"""

from __future__ import annotations

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec
from penstock.servers.common import OPENAI_NAMES, listed, plain_models

MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    answer = answers.get(MODELS.key)
    if answer is None:
        return None
    if listed(answers):
        return Match(0.4, ("/v1/models lists models as OpenAI's API does",))
    if answer.status in (401, 403):
        return Match(0.3, ("/v1/models is there and asks for a key",))
    return None


def _read(answers: Answers) -> ServerReading:
    return ServerReading(models=plain_models(answers))


SPEC = ServerSpec(
    kind=ServerKind.GENERIC,
    title="OpenAI-compatible server",
    ports=(),
    knowledge="documented",
    homepage="https://platform.openai.com/docs/api-reference",
    probes=(MODELS,),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS,),
    read=_read,
    behaviour=Behaviour(plain_ignores_hangup=False, not_found_means_model=False),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "repeat_penalty": "repeat_penalty",
        },
    ),
    fault_rules=(),
)
