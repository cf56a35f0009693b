"""Settings from flags, environment and file, and where each came from (contracts 8, behaviours I)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.adapters.files import write_atomically
from penstock.adapters.settings_file import LoadedSettings, load
from penstock.errors import SettingsError


def loaded(
    tmp_path: Path, text: str, env: dict[str, str] | None = None, **more: Any
) -> LoadedSettings:
    """Settings from this file and this environment."""
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    return load(path, environ=env or {}, **more)


def problems(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    """What is wrong with them."""
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, text, env)
    return "\n".join(refused.value.problems)


def test_precedence_and_origins(tmp_path: Path) -> None:
    """Flag over environment over file over default, each with its place."""
    text = "version: 1\nlisten:\n  host: 127.0.0.2\n  port: 1\nlog: {level: debug}\n"
    found = loaded(
        tmp_path, text, {"PENSTOCK_PORT": "2", "PENSTOCK_TIMEOUTS__STALL_S": "7"},
        flags={("log", "level"): "error"},
    )  # fmt: skip
    assert found.settings.listen.host == "127.0.0.2"
    assert found.settings.listen.port == 2
    assert found.settings.timeouts.stall_s == 7
    assert found.settings.log.level == "error"
    assert found.settings.timeouts.connect_s == 5
    assert found.origins["listen", "host"] == "penstock.yaml line 3"
    assert found.origins["listen", "port"] == "PENSTOCK_PORT"
    assert found.origins["log", "level"] == "flag"
    assert ("timeouts", "connect_s") not in found.origins


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("listen: {prot: 1}", ["listen.prot: there is no such setting; did you mean port?", "line 1"], id="unknown key"),
        pytest.param("listen:\n  port: many", ["listen.port: expected", "'many'", "penstock.yaml line 2"], id="wrong type"),
        pytest.param("listen: {port: 99999}", ["listen.port: expected", "65535"], id="out of range"),
        pytest.param("version: 2", ["version: expected", "line 1"], id="another version"),
        pytest.param("a: [", ["not valid YAML", "line"], id="no YAML"),
        pytest.param("- 1", ["expected a mapping"], id="a list"),
        pytest.param("log: {level: info}\nlog: {level: debug}", ["log: the key stands twice", "line 2"], id="a key twice"),
        pytest.param("upstreams: [{url: 'http://x'}]", ["upstreams[0].name: is needed and missing"], id="no name"),
        pytest.param("upstreams: [{name: a, url: 'ftp://x'}]", ["upstreams[0].url: expected http"], id="no URL"),
        pytest.param("upstreams: [{name: a, url: 'https://x', endpoints: dns}]", ["endpoints: dns needs a URL of http://"], id="members by https"),
        pytest.param("upstreams: [{name: a, url: x, endpoints: many}]", ["upstreams[0].endpoints: expected"], id="other endpoints"),
        pytest.param("upstreams: [{name: a, url: 'http://k:s3cret@x'}]", ["user-info"], id="a credential in the URL"),
        pytest.param("upstreams: [{name: a, url: x}, {name: a, url: y}]", ["given twice"], id="a name twice"),
        pytest.param("upstreams: [{name: a, url: x, api_key: s3cret, api_key_env: B}]", ["expected one of api_key, api_key_env"], id="two credentials"),
        pytest.param("upstreams: [{name: a, url: x, api_key_env: NOT_SET}]", ["NOT_SET is not set"], id="a variable that is not set"),
        pytest.param("upstreams: [{name: a, url: x, api_key_file: /nowhere}]", ["/nowhere cannot be read"], id="a file that is not there"),
        pytest.param('upstreams: [{name: a, url: x, api_key: "s3cret\\nX-More: 1"}]', ["upstreams[0].api_key: expected a key of one line"], id="a key that would begin another header"),
        pytest.param("upstreams: [{name: a, url: x, api_key: [s3cret]}]", ["upstreams[0].api_key: expected"], id="a key of another type"),
        pytest.param("listen: {client_keys: [{name: a, key: {x: s3cret}}]}", ["listen.client_keys[0].key"], id="a client key of another type"),
        pytest.param("limits: {window: lots}", ["limits.window: expected a count of tokens"], id="a window"),
        pytest.param("sampling: {heat: 1}", ["heat is no sampling parameter"], id="a sampling parameter"),
        pytest.param("routing: {default_upstream: x}", ["no upstream is called x"], id="a default that is not there"),
        pytest.param("listen: {tls_key: x}", ["needed together"], id="half of TLS"),
    ],
)  # fmt: skip
def test_mistakes_are_told(tmp_path: Path, text: str, says: list[str]) -> None:
    """Path, place and what was expected; a secret never."""
    told = problems(tmp_path, text)
    for words in says:
        assert words in told
    assert "s3cret" not in told


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """One sentence each."""
    told = problems(tmp_path, "listen: {port: x}\nlog: {level: loud}\nnonsense: 1")
    assert len(told.splitlines()) == 3


def test_a_variable_that_is_no_setting(tmp_path: Path) -> None:
    """A typo in the environment is not passed over."""
    assert "PENSTOCK_PROT: there is no such setting" in problems(
        tmp_path, "", {"PENSTOCK_PROT": "1"}
    )


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """While the usual one may be missing."""
    with pytest.raises(SettingsError, match="no settings file"):
        load(tmp_path / "absent.yaml", environ={})


def test_kubernetes_own_variables_are_no_settings(tmp_path: Path) -> None:
    """A Service called penstock or penstock-gateway puts these into every pod of its namespace."""
    links = {
        "PENSTOCK_PORT": "tcp://10.96.0.7:7367", "PENSTOCK_SERVICE_HOST": "10.96.0.7",
        "PENSTOCK_SERVICE_PORT": "7367", "PENSTOCK_SERVICE_PORT_HTTP": "7367",
        "PENSTOCK_PORT_7367_TCP": "tcp://10.96.0.7:7367", "PENSTOCK_PORT_7367_TCP_ADDR": "10.96.0.7",
        "PENSTOCK_GATEWAY_PORT": "tcp://10.96.0.8:7367", "PENSTOCK_GATEWAY_SERVICE_HOST": "10.96.0.8",
        "PENSTOCK_LISTEN__HOST": "::1",
    }  # fmt: skip
    found = loaded(tmp_path, "", links)
    assert (found.settings.listen.port, found.settings.listen.host) == (7367, "::1")


def test_secrets_and_urls(tmp_path: Path) -> None:
    """From the file, a variable or a file; the URL without `/v1`; never shown."""
    (tmp_path / "key").write_text("from-file\n")
    text = (
        "upstreams:\n"
        "  - {name: a, url: 'http://localhost:1/v1/', api_key: written}\n"
        "  - {name: b, url: 'localhost:2', api_key_env: B_KEY}\n"
        f"  - {{name: c, url: 'http://x', api_key_file: '{tmp_path / 'key'}'}}\n"
    )
    found = loaded(tmp_path, text, {"B_KEY": "from-env\n"})
    assert [u.api_key for u in found.upstreams] == ["written", "from-env", "from-file"]
    assert [u.url for u in found.upstreams] == [
        "http://localhost:1",
        "http://localhost:2",
        "http://x",
    ]
    assert "written" not in repr(found)


def test_upstreams_by_flag_and_by_variable(tmp_path: Path) -> None:
    """They come first, with names of their own."""
    text = "upstreams: [{name: localhost-1, url: 'http://x'}]"
    found = loaded(
        tmp_path,
        text,
        {"PENSTOCK_UPSTREAM": "http://y"},
        upstream_urls=("localhost:1", "localhost:1/v1"),
    )
    assert [(u.name, u.url) for u in found.upstreams] == [
        ("localhost-1-2", "http://localhost:1"), ("localhost-1-3", "http://localhost:1"), ("localhost-1", "http://x"),
    ]  # fmt: skip
    only = loaded(tmp_path, "", {"PENSTOCK_UPSTREAM": "http://y, http://z"})
    assert [u.url for u in only.upstreams] == ["http://y", "http://z"]


@pytest.mark.parametrize(
    ("upstream", "env", "proxy"),
    [
        ("{name: a, url: 'https://api.x.com'}", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("{name: a, url: 'https://api.x.com'}", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".x.com"}, None),
        ("{name: a, url: 'http://localhost:1'}", {"HTTP_PROXY": "http://p:1"}, None),
        ("{name: a, url: 'https://api.x.com', proxy: none}", {"HTTPS_PROXY": "http://p:1"}, None),
        ("{name: a, url: 'https://api.x.com', proxy: 'http://q:2'}", {}, "http://q:2"),
    ],
)  # fmt: skip
def test_proxies(tmp_path: Path, upstream: str, env: dict[str, str], proxy: str | None) -> None:
    """The environment's for clouds, never for local upstreams."""
    assert loaded(tmp_path, f"upstreams: [{upstream}]", env).upstreams[0].proxy == proxy


def test_a_partly_set_policy_keeps_its_other_defaults(tmp_path: Path) -> None:
    """Setting one value of the cloud policy does not make it the local one."""
    found = loaded(tmp_path, "retry: {cloud: {first_delay_s: 1}}").settings.retry
    assert (found.cloud.attempts, found.cloud.longest_delay_s, found.local.attempts) == (5, 30, 3)


@settings(max_examples=60)
@given(st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["listen", "port", "upstreams", "name", "url", "log", "limits", "window"]), inner, max_size=3
    ),
))  # fmt: skip
def test_no_tree_is_too_odd(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    """Settings or a SettingsError with sentences."""
    told: tuple[str, ...] = ("fine",)
    try:
        loaded(tmp_path_factory.mktemp("odd"), json.dumps(tree))
    except SettingsError as exc:
        told = exc.problems
    assert told
    assert all(told)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """And for their user only; nothing is left of a write that failed."""
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one"
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError):
        write_atomically(path, "two")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "text",
    ["log: {level: !x info}", "listen: {host: 2024-13-45}", "listen: {port: !!int abc}", "listen: &x {host: *x}",
     "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]"],
    ids=["a tag", "no date", "no number", "recursive", "laughs"],
)  # fmt: skip
def test_yaml_that_is_a_trap(tmp_path: Path, text: str) -> None:
    """Refused in a sentence, quickly."""
    assert "penstock.yaml" in problems(tmp_path, text)
