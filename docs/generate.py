"""
Writes the reference pages that follow from the code: settings, schema, metrics, errors, model servers,
commands. `python docs/generate.py` writes them; a test holds that they are in step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from penstock.adapters.settings_file import SHORT_FORMS
from penstock.cli.main import penstock as command
from penstock.errors import ERROR_TABLE
from penstock.gateway.conversations.counts import shows_vocabulary
from penstock.gateway.views.metrics import METRICS
from penstock.servers import SPECS
from penstock.settings import Settings, json_schema
from penstock_operator.localmodel.crd import crd
from penstock_operator.localmodel.rules import CLAIM_OF_THEIRS, ONE_VALUE, RULES

FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- made by docs/generate.py -->\n\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "settings.md": settings_page(),
        "penstock.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        "metrics.md": metrics_page(),
        "errors.md": errors_page(),
        "model-servers.md": servers_page(),
        "command-line.md": commands_page(),
        "localmodel.md": localmodel_page(),
    }


def localmodel_page() -> str:
    """Every field of the resource LocalModel."""
    lines = [
        "# LocalModel", "", NOTE.strip(), "",
        "The resource of `penstock operator`. What `kubectl explain lm.spec` says, on one page. `spec.gateway.settings` takes the groups of",
        "[settings.md](settings.md) that are policy, in camelCase.", "",
    ]  # fmt: skip
    whole = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        lines += [f"## {part}", "", "| field | type | meaning |", "|---|---|---|"]
        lines += [*_fields(whole[part], ""), ""]
    lines += [
        "## What holds between fields", "",
        "The API server refuses a LocalModel that breaks one of these, in these words.", "",
        "| field | rule |", "|---|---|",
        *(f"| `{one.path}` | {one.sentence} |" for one in RULES),
        f"| `cache.claimName` | {CLAIM_OF_THEIRS} |", f"| `runtime.env[]` | {ONE_VALUE} |", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _fields(schema: dict[str, Any], path: str) -> list[str]:
    rows = []
    for name, inner in schema.get("properties", {}).items():
        full = f"{path}{name}"
        kind = inner.get("type", "quantity" if "x-kubernetes-int-or-string" in inner else "any")
        shown = ", ".join(f"`{one}`" for one in inner.get("enum", ())) or kind
        rows.append(f"| `{full}` | {shown} | {inner.get('description', '')} |")
        if full != "gateway.settings":
            rows += _fields(inner, f"{full}.")
            rows += _fields(inner.get("items", {}), f"{full}[].")
    return rows


def settings_page() -> str:
    """Every setting with effect, unit, default and reason."""
    lines = [
        "# Settings",
        "",
        NOTE.strip(),
        "",
        "Settings stand in `penstock.yaml` in your configuration folder (`~/.config/penstock` on Linux), or in",
        "the file named by `--config` or `PENSTOCK_CONFIG`. Stronger first: command-line flags, environment",
        "variables `PENSTOCK_*`, the file, `LOCAL_MODEL_*`, what was learned, defaults. `penstock config` shows",
        "what is in force and where each value comes from. A changed file is picked up while the gateway runs,",
        "also the swap of a Kubernetes ConfigMap; a file with a mistake leaves the old settings in force and",
        "says so in the log and in `penstock status`. What is bound at the start (`listen.host`, `listen.port`,",
        "`listen.unix_socket`, TLS, the limits for headers, and `timeouts.drain_s`) takes effect at the next start;",
        "`penstock status` names what waits for it.",
        "",
        "In the environment a setting is called `PENSTOCK_` and its path with two underscores between the parts:",
        "`PENSTOCK_TIMEOUTS__STALL_S=60`. Short forms: "
        + ", ".join(f"`{name}` (`{'.'.join(path)}`)" for name, path in SHORT_FORMS.items())
        + ",",
        "and `PENSTOCK_UPSTREAM`, one or more URLs with commas between them.",
        "",
        "For local models only, and never for cloud upstreams, these work too: `LOCAL_MODEL_TOKEN_LIMIT` (the",
        "window), `LOCAL_MODEL_MAX_TOKENS` (output budget of requests that name none) and",
        "`LOCAL_MODEL_MAX_CONCURRENCY` (requests at a time). Counts of tokens may be written `16384` or `16k`.",
        "",
        "[penstock.schema.json](penstock.schema.json) is the JSON Schema; editors read it by a first line",
        "`# yaml-language-server: $schema=penstock.schema.json`.",
        "",
    ]
    for path, model in groups(Settings):
        title = path or "Top level"
        doc = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
        lines += [
            f"## {title}",
            "",
            doc,
            "",
            "| setting | effect | unit | default | why |",
            "|---|---|---|---|---|",
        ]
        for name, field in model.model_fields.items():
            full = f"{path}.{name}" if path else name
            extra: Any = field.json_schema_extra or {}
            lines.append(
                f"| `{full}` | {field.description or ''} | {extra.get('unit', '')} | {default_of(field, full)} | "
                f"{extra.get('reason', '')} |"
            )
        lines.append("")
    return "\n".join(lines)


def groups(model: type[BaseModel], path: str = "") -> list[tuple[str, type[BaseModel]]]:
    """The tree's groups, depth first: dotted path and class."""
    found = [(path, model)]
    for name, field in model.model_fields.items():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                is_list = "list" in str(field.annotation)
                inner = f"{path}.{name}" if path else name
                found += groups(part, f"{inner}[]" if is_list else inner)
                break
    return found


def default_of(field: Any, full: str) -> str:
    """A default as the page shows it."""
    if field.is_required():
        if "[]" in full:
            return "needed"
        value: Any = Settings()
        for part in full.split("."):
            value = getattr(value, part)
        return f"`{json.dumps(value)}`"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(value)}`"


def metrics_page() -> str:
    """Every metric."""
    lines = [
        "# Metrics", "", NOTE.strip(), "",
        "`/metrics` answers in Prometheus' text format. Names follow OpenTelemetry's GenAI conventions where",
        "there is one. Counters end in `_total` there, histograms in `_bucket`, `_sum` and `_count`. After 100",
        "models the label `model` says `other`. At rest every gauge of requests is 0.", "",
        "| metric | kind | labels | meaning |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, (kind, text, labels) in METRICS.items():
        shown = f"{name}_total" if kind == "counter" else name
        lines.append(f"| `{shown}` | {kind} | {', '.join(f'`{x}`' for x in labels)} | {text} |")
    return "\n".join([*lines, ""])


_RETRIES = {
    "never": "no",
    "policy": "by policy",
    "readiness": "waits until it is ready; counts no attempts",
    "once": "once",
    "once_refit": "fitted to what it named and sent once more",
    "connect_only": "by policy",
    "unsent": "by policy, while nothing was relayed",
}


def errors_page() -> str:
    """Every error code."""
    lines = [
        "# Errors", "", NOTE.strip(), "",
        "An error is `{\"error\": {message, type, param, code, source, upstream, attempts, hint, request_id}}`, in",
        "Anthropic's or Ollama's shape on their paths. `source` says who refused: `penstock` or `upstream`. Once a",
        "stream has begun, the error is its last event, with `status` in it, and the stream ends without its",
        "closing event. `Retry-After` stands wherever waiting helps. `x-should-retry` is `true` on our own",
        "refusals and `false` once the attempts are spent: the official clients obey it.", "",
        "| code | HTTP | who | when | repeated by the gateway (local upstreams) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    who = {"client": "the request", "penstock": "Penstock", "upstream": "the upstream"}
    for code, row in ERROR_TABLE.items():
        again = _RETRIES[row.retry] if row.blame == "upstream" else ""
        status = "its own" if code.value == "upstream_bad_request" else str(row.status)
        lines.append(f"| `{code.value}` | {status} | {who[row.blame]} | {row.meaning} | {again} |")
    lines.append("")
    return "\n".join(lines)


def servers_page() -> str:
    """Every kind of model server."""
    lines = [
        "# Model servers", "", NOTE.strip(), "",
        "*recorded*: tested against the real server. *documented*: written from its sources and documentation;",
        "nothing is ever dropped from a request to such a server.", "",
        "| kind | server | known from | usual ports | spoken to in | notices a hang-up while decoding / in prefill | tokens are |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, spec in SPECS.items():
        b = spec.behaviour
        words = {True: "yes", False: "no"}
        dialect = "its native dialect (chat)" if b.chat_dialect == "ollama" else "OpenAI's"
        if spec.counting is not None:
            counted = "counted by the server"
        else:
            counted = "counted with its vocabulary" if shows_vocabulary(spec) else "measured"
        lines.append(
            f"| `{kind.value}` | [{spec.title}]({spec.homepage}) | {spec.knowledge} | "
            f"{', '.join(map(str, spec.ports)) or 'any'} | {dialect} | "
            f"{words[b.notices_hangup_decoding]} / {words[b.notices_hangup_prefill]} | {counted} |"
        )
    lines += [
        "",
        "Adding one means adding one file under `shared/penstock/servers`; CONTRIBUTING.md says how.",
        "",
    ]
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its options."""
    lines = [
        "# Command line", "", NOTE.strip(), "",
        "`penstock COMMAND`; in a checkout `python3 shared COMMAND`, installed also `python -m penstock COMMAND`.",
        "",
        "Exit codes: 0 fine, 1 a problem was found, 2 usage or settings, 3 port taken or already running,",
        "4 nothing found, 130 interrupted. `--json` prints JSON. Errors are one sentence on standard error;",
        "`PENSTOCK_DEBUG=1` shows where a defect comes from.", "",
    ]  # fmt: skip
    context = click.Context(command, info_name="penstock")
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        inner = click.Context(found, info_name=name, parent=context, max_content_width=100)
        lines += [f"## penstock {name}", "", "```text", found.get_help(inner).rstrip(), "```", ""]
        for below in found.list_commands(inner) if isinstance(found, click.Group) else ():
            command_below = found.get_command(inner, below)
            assert command_below is not None
            deeper = click.Context(
                command_below, info_name=below, parent=inner, max_content_width=100
            )
            lines += ["```text", command_below.get_help(deeper).rstrip(), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    for file_name, text in pages().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
        click.echo(f"docs/{file_name}")
