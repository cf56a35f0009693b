"""
Reads settings from flags, environment and file, in that order of strength, and keeps where each value
came from (contracts 8, behaviours I).

Every mistake is told at once, each with file, line, path and what was expected; a secret never appears.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from penstock.adapters.folders import config_file
from penstock.adapters.key_files import key_files
from penstock.detection import normalise_url
from penstock.domain.upstream import Upstream
from penstock.errors import SettingsError
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings

PREFIX = "PENSTOCK_"
# Short forms of what people set most; everything else is PENSTOCK_GROUP__NAME.
SHORT_FORMS = {
    "PENSTOCK_HOST": ("listen", "host"),
    "PENSTOCK_PORT": ("listen", "port"),
    "PENSTOCK_LOG_LEVEL": ("log", "level"),
    "PENSTOCK_LOG_FORMAT": ("log", "format"),
}
# Not settings: PENSTOCK_CONFIG names the file, PENSTOCK_UPSTREAM an upstream, PENSTOCK_DEBUG shows
# tracebacks, PENSTOCK_API_KEY is what `penstock status` presents.
NOT_SETTINGS = frozenset(
    {"PENSTOCK_CONFIG", "PENSTOCK_UPSTREAM", "PENSTOCK_DEBUG", "PENSTOCK_API_KEY"}
)
# What Kubernetes puts into every pod beside a Service whose name begins with "penstock".
_SERVICE_LINK = re.compile(
    r"PENSTOCK_(?:\w+_)?(?:SERVICE_(?:HOST|PORT)\w*|PORT_\d+_(?:TCP|UDP|SCTP)\w*)"
)
_PathKey = tuple[str | int, ...]
_DEEPEST, _MOST_VALUES = 32, 20_000


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """
    Settings and where they came from.

    Attributes:
        settings: in force.
        upstreams: configured and given by flag, with their secrets.
        client_keys: name -> key.
        admin_token: of the file that the settings name, None for none.
        env: what `LOCAL_MODEL_*` say.
        origins: path -> place, for each value that is no default (`("listen", "port")` ->
            `penstock.yaml line 3`).
        path: the file that was read, None for none.
        warnings: variables that were refused and do not take effect.
    """

    settings: Settings
    upstreams: tuple[Upstream, ...]
    client_keys: Mapping[str, str] = field(repr=False)
    env: LocalModelEnvironment
    origins: Mapping[_PathKey, str]
    path: Path | None
    warnings: tuple[str, ...] = ()
    admin_token: str | None = field(default=None, repr=False)


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[_PathKey, Any] | None = None,
    upstream_urls: tuple[str, ...] = (),
) -> LoadedSettings:
    """
    Load the settings.

    Args:
        path: the file; None takes PENSTOCK_CONFIG, else the user's own if it exists.
        environ: the process's environment when None.
        flags: path -> value.
        upstream_urls: upstreams given by flag; they come before those of the file.

    Raises:
        SettingsError: with one sentence for each mistake.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    origins: dict[_PathKey, str] = {}
    lines: dict[_PathKey, str] = {}
    tree: dict[str, Any] = {}
    if path is None and environ.get("PENSTOCK_CONFIG"):
        path = Path(environ["PENSTOCK_CONFIG"])
    explicit = path is not None
    path = path if path is not None else config_file()
    if path.is_file():
        tree = _read_file(path, lines, problems)
        origins.update(lines)
    elif explicit:
        raise SettingsError([f"There is no settings file {path}."])
    else:
        path = None
    _apply_environment(tree, environ, origins, problems)
    for key, value in (flags or {}).items():
        _put(tree, key, value)
        origins[key] = "flag"
    if problems:
        raise SettingsError(problems)
    settings = _validate(tree, origins)
    urls = [(url, "flag") for url in upstream_urls]
    if not urls and environ.get("PENSTOCK_UPSTREAM"):
        named = [url.strip() for url in environ["PENSTOCK_UPSTREAM"].split(",")]
        urls = [(url, "environment") for url in named if url]
    upstreams = _upstreams(settings, urls, environ, origins, problems)
    keys = _client_keys(settings, environ, origins, problems)
    token_file = settings.listen.admin_token_file
    token = _secret(None, None, token_file, environ, "listen.admin_token_file", problems)
    if token_file is not None and token is None and not problems:
        problems.append(f"listen.admin_token_file: {token_file} is empty")
    if problems:
        raise SettingsError(problems)
    env, warnings = LocalModelEnvironment.parse(environ)
    return LoadedSettings(settings, upstreams, keys, env, origins, path, warnings, token)


def _read_file(path: Path, lines: dict[_PathKey, str], problems: list[str]) -> dict[str, Any]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError([f"{path.name} cannot be read: {exc}"]) from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        place = f"line {mark.line + 1}" if mark is not None else "somewhere"
        raise SettingsError([f"{path.name}, {place}: not valid YAML: {exc.problem}"]) from exc
    except yaml.YAMLError as exc:
        raise SettingsError([f"{path.name}: not valid YAML: {exc}"]) from exc
    if node is None:
        return {}
    value = _value(node, (), path.name, lines, problems)
    if not isinstance(value, dict):
        raise SettingsError([f"{path.name}: expected a mapping at the top"])
    return value


def _value(
    node: yaml.Node, at: _PathKey, file: str, lines: dict[_PathKey, str], problems: list[str]
) -> Any:
    """The node's value; remembers the line of each, refuses keys that stand twice."""
    if len(at) > _DEEPEST or len(lines) > _MOST_VALUES:  # aliases can make either without end
        raise SettingsError([f"{file}: nested too deeply, or too large (aliases?)"])
    lines[at] = f"{file} line {node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in found:
                problems.append(
                    f"{_dotted((*at, key))}: the key stands twice ({file} line "
                    f"{key_node.start_mark.line + 1})"
                )
            found[key] = _value(value_node, (*at, key), file, lines, problems)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(n, (*at, i), file, lines, problems) for i, n in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        problems.append(
            f"{_dotted(at)}: expected a plain value, got one that YAML cannot read ({lines[at]})"
        )
        return None


def _apply_environment(
    tree: dict[str, Any],
    environ: Mapping[str, str],
    origins: dict[_PathKey, str],
    problems: list[str],
) -> None:
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        if _SERVICE_LINK.fullmatch(name) or (
            name.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))
        ):
            continue
        key: _PathKey = SHORT_FORMS.get(name) or tuple(
            name.removeprefix(PREFIX).lower().split("__")
        )
        if len(key) == 1 and key[0] not in Settings.model_fields:
            problems.append(f"{name}: there is no such setting (environment)")
            continue
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            value = text
        _put(tree, key, value)
        origins[key] = name


def _put(tree: dict[str, Any], key: _PathKey, value: Any) -> None:
    for part in key[:-1]:
        inner = tree.get(str(part))
        if not isinstance(inner, dict):
            inner = {}
            tree[str(part)] = inner
        tree = inner
    tree[str(key[-1])] = value


def _validate(tree: dict[str, Any], origins: Mapping[_PathKey, str]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as exc:
        raise SettingsError([_sentence(dict(e), origins) for e in exc.errors()]) from None


def _sentence(error: dict[str, Any], origins: Mapping[_PathKey, str]) -> str:
    """`listen.port: expected ..., got ... (penstock.yaml line 3)`."""
    at: _PathKey = tuple(error["loc"])
    place = _place(at, origins)
    told = f" ({place})" if place else ""
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(at[-1]), _known_names(at[:-1]), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{_dotted(at)}: there is no such setting{hint}{told}"
    if kind == "missing":
        return f"{_dotted(at)}: is needed and missing{told}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if not message.startswith("expected") and kind != "value_error":
        message = f"expected {message}"
    got = error.get("input")
    if not _is_secret(at) and isinstance(got, str | int | float | bool) and "got" not in message:
        message += f", got {str(got)[:60]!r}" if isinstance(got, str) else f", got {got}"
    return f"{_dotted(at)}: {message}{told}" if at else f"{message}{told}"


def _place(at: _PathKey, origins: Mapping[_PathKey, str]) -> str:
    for length in range(len(at), 0, -1):
        if at[:length] in origins:
            return origins[at[:length]]
    return ""


def _is_secret(at: _PathKey) -> bool:
    return any(part in ("api_key", "key") for part in at)


def _known_names(at: _PathKey) -> list[str]:
    model: Any = Settings
    for part in at:
        if isinstance(part, int):
            continue
        found = getattr(model, "model_fields", {}).get(part)
        if found is None:
            return []
        model = next(
            (
                c
                for c in (found.annotation, *getattr(found.annotation, "__args__", ()))
                if isinstance(c, type) and issubclass(c, BaseModel)
            ),
            None,
        )
    return list(getattr(model, "model_fields", {}))


def _dotted(at: _PathKey) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _upstreams(
    settings: Settings,
    urls: list[tuple[str, str]],
    environ: Mapping[str, str],
    origins: Mapping[_PathKey, str],
    problems: list[str],
) -> tuple[Upstream, ...]:
    found: list[Upstream] = []
    names = {options.name for options in settings.upstreams}
    for url, found_by in urls:
        try:
            clean = normalise_url(url)
        except ValueError as exc:
            where = "--upstream" if found_by == "flag" else "PENSTOCK_UPSTREAM"
            problems.append(f"{where}: {exc}")
            continue
        name = _free_name(clean, names)
        names.add(name)
        found.append(Upstream(name, clean, found_by=found_by))
    for place, options in enumerate(settings.upstreams):
        at = ("upstreams", place)
        try:
            clean = normalise_url(options.url)
        except ValueError as exc:
            problems.append(f"{_dotted((*at, 'url'))}: {exc} ({_place((*at, 'url'), origins)})")
            continue
        key = _secret(
            options.api_key, options.api_key_env, options.api_key_file, environ,
            f"{_dotted(at)}.api_key", problems,
        )  # fmt: skip
        found.append(
            Upstream(
                options.name,
                clean,
                local=options.local,
                kind=options.kind,
                api_key=key,
                ca_file=options.ca_file,
                verify=options.verify,
                proxy=_proxy(options.proxy, clean, options.local, environ),
                models=tuple(options.models),
                exclusive=options.exclusive and options.gateway_replicas == 1,
                gateway_replicas=options.gateway_replicas,
                endpoints=options.endpoints,
            )
        )
    return tuple(found)


def _proxy(
    written: str | None, url: str, local: bool | None, environ: Mapping[str, str]
) -> str | None:
    """The proxy of one upstream. Local ones never go through the environment's."""
    from penstock.detection import judge

    if written is not None:
        return None if written.lower() == "none" else written
    if judge(url, declared=local).is_local or url.startswith("unix:"):
        return None
    scheme, _, rest = url.partition("://")
    host = rest.split("/")[0].rsplit(":", 1)[0].lower()
    for entry in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").split(","):
        name = entry.strip().lower().lstrip(".")
        if name and (name == "*" or host == name or host.endswith(f".{name}")):
            return None
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if environ.get(name, "").startswith("http://"):
            return environ[name]
    return None


def _free_name(url: str, taken: set[str]) -> str:
    host = url.partition("://")[2].split("/")[0] or "local"
    base = "".join(c if c.isalnum() or c in "-_." else "-" for c in host)[:60] or "local"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def _client_keys(
    settings: Settings,
    environ: Mapping[str, str],
    origins: Mapping[_PathKey, str],
    problems: list[str],
) -> dict[str, str]:
    keys: dict[str, str] = {}
    for place, entry in enumerate(settings.listen.client_keys):
        at = f"listen.client_keys[{place}]"
        key = _secret(entry.key, entry.key_env, entry.key_file, environ, at, problems)
        if entry.name in keys:
            problems.append(f"{at}.name: the name {entry.name} is given twice")
        elif key:
            keys[entry.name] = key
    folder = settings.listen.client_keys_dir
    for name, file in key_files(folder, problems).items():
        at = f"listen.client_keys_dir: {name}"
        key = _secret(None, None, str(file), environ, at, problems)
        if name in keys:
            problems.append(f"{at}: listen.client_keys has a client of this name too")
        elif key:
            keys[name] = key
    return keys


def _secret(
    written: str | None,
    variable: str | None,
    file: str | None,
    environ: Mapping[str, str],
    at: str,
    problems: list[str],
) -> str | None:
    value = written
    if variable is not None:
        value = environ.get(variable)
        if not value:
            problems.append(f"{at}: the environment variable {variable} is not set")
    elif file is not None:
        try:
            value = Path(file).expanduser().read_text(encoding="utf-8")
        except OSError as exc:
            problems.append(f"{at}: the file {file} cannot be read: {exc.strerror}")
        except UnicodeDecodeError:
            problems.append(f"{at}: the file {file} holds no text")
    # The line end of a file, of `echo` or of a YAML block is no part of it.
    value = (value or "").strip()
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in value):
        # It stands in a header: a line end in it would begin another one.
        problems.append(f"{at}: expected a key of one line, without control characters")
        return None
    return value or None
