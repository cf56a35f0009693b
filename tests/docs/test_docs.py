"""The documentation says what is there, all of it, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from penstock.errors import ERROR_TABLE
from penstock.gateway.views.metrics import METRICS
from penstock.settings import Settings, json_schema
from scripted import ScriptedLlama, gateway_here

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_generated_pages_are_in_step(name: str) -> None:
    """`python docs/generate.py` would change nothing."""
    assert (DOCS / name).read_text(encoding="utf-8") == GENERATED[name], (
        "run python docs/generate.py"
    )


def test_every_setting_says_what_it_does() -> None:
    """Each has an effect, and each stands on the page by its whole name."""
    page = (DOCS / "settings.md").read_text()
    for path, group in runpy.run_path(str(DOCS / "generate.py"))["groups"](Settings):
        for name, field in group.model_fields.items():
            full = f"{path}.{name}" if path else name
            assert field.description, full
            assert f"`{full}`" in page


def headers_in_code() -> set[str]:
    """Every `penstock-*` header that the gateway writes or reads."""
    source = "".join(p.read_text() for p in (ROOT / "shared/penstock/gateway").rglob("*.py"))
    found = set(re.findall(r'b?"(penstock-(?!status)[a-z-]+[a-z])"', source))
    return found - {"penstock-probe"}


def test_every_header_is_documented_and_every_documented_one_exists() -> None:
    """In both directions."""
    documented = set(re.findall(r"`(penstock-[a-z-]+)`", (DOCS / "headers.md").read_text()))
    assert documented == headers_in_code()


def test_every_metric_and_error_stands_in_its_table() -> None:
    """By name."""
    metrics, errors = (DOCS / "metrics.md").read_text(), (DOCS / "errors.md").read_text()
    assert all(name in metrics for name in METRICS)
    assert all(f"`{code.value}`" in errors for code in ERROR_TABLE)


def links(page: Path) -> list[str]:
    """Relative links of a page."""
    return [
        target.split("#")[0]
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text())
        if "://" not in target and not target.startswith("#")
    ]


@pytest.mark.parametrize(
    "page",
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(DOCS.glob("*.md")),
        *sorted(ROOT.glob("*/README.md")),
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    for target in links(page):
        assert (page.parent / target).exists(), target


def yaml_examples() -> list[str]:
    """The settings shown in README and docs."""
    text = "".join(p.read_text() for p in (ROOT / "README.md", *DOCS.glob("*.md")))
    return [
        block
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        if "version: 1" in block
    ]


def test_the_schema_takes_the_examples_and_refuses_mistakes() -> None:
    """The published JSON Schema and the loader agree on what is shown."""
    schema = json_schema()
    assert yaml_examples()
    for block in yaml_examples():
        tree: Any = yaml.safe_load(block)
        jsonschema.validate(tree, schema)
        Settings.model_validate(tree)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"listen": {"prot": 1}}, schema)


def test_the_status_is_what_its_schema_says() -> None:
    """Of a gateway that has seen good and bad requests, and every field is in the page or the schema."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            await gateway.chat()
            await gateway.chat(messages=[])
            status = (await gateway.http.get("/penstock/status")).json()
            jsonschema.validate(status, json.loads((DOCS / "status.schema.json").read_text()))
            assert len(status["requests"]["recent"]) == 2

    asyncio.run(main())


def test_commands_shown_exist() -> None:
    """Every `python3 shared X` and `penstock X` of README and docs is a command with such options."""
    from penstock.cli.main import penstock as command

    context = click.Context(command)
    text = "".join(p.read_text() for p in (ROOT / "README.md", *DOCS.glob("*.md")))
    shown = re.findall(r"(?:python3 shared|`penstock) ([a-z-]+)((?: --?[a-z][a-z-]*)*)", text)
    assert shown
    for name, options in shown:
        found = command.get_command(context, name)
        assert found is not None, name
        known = {option for param in found.params for option in param.opts}
        assert set(options.split()) <= known, name
