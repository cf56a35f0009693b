"""The chart's roles and the operator's table of permissions say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_operator.api.permissions import PERMISSIONS

TEMPLATES = Path(__file__).resolve().parents[2] / "charts" / "penstock" / "templates"
Rights = dict[tuple[str, str], set[str]]


def of_rules(rules: list[dict[str, Any]]) -> Rights:
    found: Rights = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def of_table(scope: str) -> Rights:
    rows = (row for row in PERMISSIONS if row.scope == scope)
    return {(row.group, row.resource): set(row.verbs) for row in rows}


def of_chart(scope: str) -> Rights:
    if scope == "model":
        text = (TEMPLATES / "_helpers.tpl").read_text(encoding="utf-8")
        found = re.search(r'define "penstock.modelRules" -}}\n(.*?)\{\{- end', text, re.DOTALL)
    else:
        text = (TEMPLATES / "rbac.yaml").read_text(encoding="utf-8")
        group = r"\[coordination.k8s.io\]"
        found = re.search(
            rf"^( *- apiGroups: {group}\n.*?)^(?:---|\S)", text, re.DOTALL | re.MULTILINE
        )
    assert found is not None
    return of_rules(yaml.safe_load(found[1]))


@pytest.mark.parametrize("scope", ["model", "own"])
def test_roles_grant_exactly_what_the_table_says(scope: str) -> None:
    """Neither more nor less, scope by scope."""
    assert of_chart(scope) == of_table(scope)


def test_no_role_reads_secrets() -> None:
    """Secrets are written and never read."""
    for scope in ("model", "own"):
        assert of_chart(scope).get(("", "secrets"), set()) <= {"create", "patch"}


def test_no_role_has_a_wildcard() -> None:
    """Groups, resources and verbs are all named."""
    for scope in ("model", "own"):
        for (group, resource), verbs in of_chart(scope).items():
            assert "*" not in {group, resource, *verbs}


def test_every_row_says_why_and_stands_once() -> None:
    """A right without a reason is none."""
    assert all(row.why and row.verbs for row in PERMISSIONS)
    named = [(row.scope, row.group, row.resource) for row in PERMISSIONS]
    assert len(named) == len(set(named))
