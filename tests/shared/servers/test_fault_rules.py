"""Every error text that a model server is known to send is understood."""

from __future__ import annotations

import json

import pytest

from fault_cases import CASES, FaultCase
from penstock import faults
from penstock.domain.fault import Fault
from penstock.domain.upstream import ServerKind
from penstock.errors import ERROR_TABLE
from penstock.servers import SPECS, spec
from penstock.servers.base import FaultRule
from penstock.servers.common import GENERIC_RULES


def classified(case: FaultCase) -> Fault | None:
    """The case as the gateway classifies it, whole or inside a stream."""
    if case.status is None:
        return faults.classify_stream_error(case.error, spec(case.kind))
    return faults.classify_answer(
        status=case.status,
        headers={"content-type": "application/json" if case.body[:1] == b"{" else "text/plain"},
        body=case.body,
        spec=spec(case.kind),
        now_s=0.0,
        own_key=True,
    )


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in CASES])
def test_what_a_server_says_is_understood(case: FaultCase) -> None:
    """The right class and the token counts of the text come out of what the server sent."""
    fault = classified(case)
    assert fault is not None
    assert (fault.code, fault.window, fault.prompt_tokens) == (case.code, case.window, case.prompt)


def _takes(rule: FaultRule, case: FaultCase) -> bool:
    try:
        value = json.loads(case.body)
    except ValueError:
        value = None
    _, message, kinds = faults.describe(value, case.body)
    if rule.status and case.status not in rule.status:
        return False
    if rule.error_type is not None and rule.error_type not in kinds:
        return False
    return rule.pattern is None or rule.pattern.search(message) is not None


@pytest.mark.parametrize("kind", [pytest.param(k, id=k) for k in SPECS])
def test_every_rule_has_a_case(kind: ServerKind) -> None:
    """No rule is there without an answer that it is for."""
    cases = [case for case in CASES if case.kind is kind]
    idle = [r for r in spec(kind).fault_rules if not any(_takes(r, case) for case in cases)]
    assert idle == []


@pytest.mark.parametrize("kind", [pytest.param(k, id=k) for k in SPECS])
def test_rules_name_faults_of_upstreams(kind: ServerKind) -> None:
    """A server's words never become one of our own refusals, and only known groups are named."""
    for rule in (*spec(kind).fault_rules, *GENERIC_RULES):
        assert ERROR_TABLE[rule.code].blame == "upstream"
        assert set(rule.pattern.groupindex if rule.pattern else ()) <= {"window", "prompt"}
