"""Routes, access and routing: who may reach what, and where a model's name leads (contracts 7 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.upstream import Locality
from penstock.errors import RequestError
from penstock.gateway.edge.access import AccessRules, check_bind, decide_access
from penstock.gateway.edge.routes import allowed_for_cloud, normalise_path, route, wire_path
from penstock.gateway.upstreams.resolve import Candidate, resolve

# Routes


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/models", "/v1/models"), (b"/v1//models/", "/v1/models"), (b"/", "/"), (b"/v1/models?x=/../", "/v1/models"),
        (b"/v1/models/a%2Fb", "/v1/models/a/b"), (b"/v1/models/caf%C3%A9", "/v1/models/café"), (b"/v1/models/m:7b", "/v1/models/m:7b"),
    ],
)  # fmt: skip
def test_paths_are_normalised(raw: bytes, path: str) -> None:
    """Once, before any decision."""
    assert normalise_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    [b"", b"*", b"http://x/", b"/..", b"/v1/../x", b"/v1/%2e%2e/x", b"/%2E./x", b"/a/./b", b"/%00", b"/%0d%0a", b"/\x01",
     b"/a%5cb", b"/a\\b", b"/%252e", b"/%ff", b"/v1/%2e/models", b"/api/%2575nload", b"/api%2570ull"],
)  # fmt: skip
def test_paths_that_some_would_read_otherwise(raw: bytes) -> None:
    """Refused, not guessed at."""
    with pytest.raises(RequestError):
        normalise_path(raw)


@given(st.binary(max_size=40))
def test_no_path_raises_anything_else(raw: bytes) -> None:
    """A path without dots and control characters, or a refusal."""
    try:
        path = normalise_path(b"/" + raw)
    except RequestError:
        return
    assert path.startswith("/")
    assert ".." not in path.split("/")
    assert path.isprintable() or not any(ord(c) < 32 for c in path)


@pytest.mark.parametrize(
    ("method", "path", "kind", "operation", "dialect"),
    [
        ("POST", "/v1/chat/completions", "generate", "chat", "openai"), ("POST", "/chat/completions", "generate", "chat", "openai"),
        ("POST", "/v1/completions", "generate", "completions", "openai"), ("POST", "/v1/embeddings", "generate", "embeddings", "openai"),
        ("POST", "/v1/responses", "generate", "responses", "responses"), ("POST", "/v1/messages", "generate", "messages", "anthropic"),
        ("POST", "/api/chat", "generate", "generate", "ollama"), ("POST", "/api/generate", "generate", "generate", "ollama"),
        ("POST", "/completion", "generate", "generate", "llamacpp"), ("POST", "/infill", "generate", "generate", "llamacpp"),
        ("GET", "/v1/models", "models", "other", "openai"), ("GET", "/v1/models/a/b:c", "models", "other", "openai"),
        ("GET", "/api/tags", "models", "other", "ollama"), ("POST", "/api/show", "models", "other", "ollama"),
        ("GET", "/api/ps", "models", "other", "ollama"), ("GET", "/api/v0/models", "models", "other", "openai"),
        ("GET", "/v1/internal/model/info", "read", "other", "openai"), ("GET", "/v1/internal/lora/list", "read", "other", "openai"),
        ("POST", "/v1/internal/model/load", "change", "other", "openai"), ("GET", "/v1/internal/model/unload", "change", "other", "openai"),
        ("GET", "/v1/internal/stop-generation", "change", "other", "openai"), ("POST", "/v1/internal/logits", "change", "other", "openai"),
        ("GET", "/props", "read", "other", "openai"), ("GET", "/slots", "read", "other", "openai"), ("GET", "/api/version", "models", "other", "ollama"),
        ("POST", "/tokenize", "read", "other", "openai"), ("POST", "/v1/messages/count_tokens", "count", "other", "anthropic"),
        ("POST", "/props", "change", "other", "openai"), ("POST", "/api/pull", "change", "other", "ollama"), ("GET", "/api/pull", "change", "other", "ollama"),
        ("POST", "/api/push", "change", "other", "ollama"), ("POST", "/api/create", "change", "other", "ollama"), ("POST", "/api/copy", "change", "other", "ollama"),
        ("DELETE", "/api/delete", "change", "other", "ollama"), ("HEAD", "/api/blobs/sha256:x", "change", "other", "ollama"),
        ("POST", "/slots/0", "change", "other", "openai"), ("POST", "/models/load", "change", "other", "openai"), ("POST", "/api/v1/models/unload", "change", "other", "openai"),
        ("POST", "/lora-adapters", "change", "other", "openai"), ("DELETE", "/anything", "change", "other", "openai"), ("PUT", "/x", "change", "other", "openai"),
        ("GET", "/penstock/status", "admin", "other", "openai"), ("POST", "/penstock", "admin", "other", "openai"), ("GET", "/healthz", "health", "other", "openai"), ("HEAD", "/", "health", "other", "openai"), ("GET", "/", "read", "other", "openai"),
    ],
)  # fmt: skip
def test_what_a_path_means(method: str, path: str, kind: str, operation: str, dialect: str) -> None:
    """Generating, listing, reading, changing."""
    found = route(method, path)
    assert (found.kind, found.operation) == (kind, operation)
    if kind in ("generate", "models"):
        assert found.dialect == dialect


def test_an_upstreams_own_paths() -> None:
    """`/upstream/NAME/...` is the same path there, and never our own admin surface."""
    found = route("POST", "/upstream/box/v1/chat/completions")
    assert (found.kind, found.upstream, found.upstream_path) == (
        "generate",
        "box",
        "/v1/chat/completions",
    )
    assert route("POST", "/upstream/box/api/pull").kind == "change"
    assert route("GET", "/upstream/box/penstock/status").kind == "read"
    assert route("POST", "/upstream/box/penstock/stop").kind == "change"
    assert route("POST", "/upstream/box/metrics").kind == "change"


@pytest.mark.parametrize(
    "path",
    ["/v1/files/a b", "/f?x=1", "/f#a", "/caf\xe9", "/v1/models/\u65e5", "/100%", "/a/b:c", "/"],
)
def test_a_path_goes_on_as_it_was_decided_on(path: str) -> None:
    """Encoded again: whoever decodes once reads the same path, and the request line stays whole."""
    sent = wire_path(path)
    assert normalise_path(sent.encode("ascii")) == path
    assert not set(sent) & set(" ?#")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", True), ("/v1/models", True), ("/v1/models/gpt-4o", True), ("/v1/files/x", True), ("/v1/responses/r1", True),
        ("/", False), ("/dashboard", False), ("/v1/organization/users", False), ("/api/pull", False), ("/v1/modelsx", False), ("/v1", False),
    ],
)  # fmt: skip
def test_paths_of_clouds(path: str, allowed: bool) -> None:
    """An allow-list: the key serves no other purpose."""
    assert allowed_for_cloud(path) is allowed


# Access

RULES = AccessRules({}, "token", (), (), only_loopback=True, metrics_open=False)
OPEN = AccessRules(
    {"alice": "sk-alice", "bob": "sk-bob"},
    "token",
    ("gw.example",),
    ("https://app.example",),
    only_loopback=False,
    metrics_open=False,
)
CHAT, STATUS, STOP, METRICS, PULL = (
    ("POST", "/v1/chat/completions"), ("GET", "/penstock/status"), ("POST", "/penstock/stop"), ("GET", "/metrics"), ("POST", "/api/pull"),
)  # fmt: skip
JSON = {"content-type": "application/json", "host": "localhost"}
ALICE, ADMIN = {"authorization": "Bearer sk-alice"}, {"penstock-admin-token": "token"}


@pytest.mark.parametrize(
    ("rules", "request_", "headers", "expected"),
    [
        pytest.param(RULES, CHAT, {}, "anonymous", id="loopback without keys"),
        pytest.param(RULES, CHAT, {"authorization": "Bearer whatever"}, "anonymous", id="any key is accepted then"),
        pytest.param(RULES, STATUS, {}, "anonymous", id="reading the status on loopback"),
        pytest.param(RULES, METRICS, {}, "anonymous", id="metrics on loopback"),
        pytest.param(RULES, STOP, {}, "admin_token_required", id="writing needs the token, on loopback too"),
        pytest.param(RULES, STOP, ADMIN, "anonymous", id="with it"),
        pytest.param(RULES, STOP, {"penstock-admin-token": "guess"}, "admin_token_required", id="with a wrong one"),
        pytest.param(RULES, PULL, {}, "admin_token_required", id="pulling"),
        pytest.param(RULES, PULL, ADMIN, "anonymous", id="pulling with the token"),
        pytest.param(OPEN, CHAT, {}, "unauthorized", id="no key"),
        pytest.param(OPEN, CHAT, {"authorization": "Bearer sk-nobody"}, "unauthorized", id="a wrong key"),
        pytest.param(OPEN, CHAT, {"authorization": "Basic sk-alice"}, "unauthorized", id="another scheme"),
        pytest.param(OPEN, CHAT, ALICE, "alice", id="a bearer key"),
        pytest.param(OPEN, CHAT, {"authorization": "bearer sk-bob"}, "bob", id="in any case"),
        pytest.param(OPEN, CHAT, {"x-api-key": "sk-bob"}, "bob", id="as x-api-key"),
        pytest.param(OPEN, STATUS, {}, "unauthorized", id="the status where others can reach it"),
        pytest.param(OPEN, STATUS, ALICE, "alice", id="with a client key"),
        pytest.param(OPEN, METRICS, {}, "unauthorized", id="metrics where others can reach them"),
        pytest.param(OPEN, METRICS, ALICE, "alice", id="metrics with a key"),
        pytest.param(OPEN, PULL, ALICE, "admin_token_required", id="a client key is no token"),
        pytest.param(RULES, CHAT, {"host": "evil.example"}, "host_not_allowed", id="a foreign host name"),
        pytest.param(RULES, CHAT, {"host": "127.0.0.1.evil.example"}, "host_not_allowed", id="a look-alike"),
        pytest.param(RULES, CHAT, {"host": "192.168.1.5:7367"}, "anonymous", id="an address"),
        pytest.param(RULES, CHAT, {"host": "[::1]:7367"}, "anonymous", id="an IPv6 address"),
        pytest.param(OPEN, CHAT, {"host": "GW.example:80", **ALICE}, "alice", id="an allowed name"),
        pytest.param(RULES, METRICS, {"host": "prometheus.target"}, "anonymous", id="health paths take any name"),
        pytest.param(RULES, CHAT, {"origin": "https://evil.example"}, "origin_not_allowed", id="a foreign page"),
        pytest.param(RULES, CHAT, {"origin": "null"}, "origin_not_allowed", id="an opaque origin"),
        pytest.param(RULES, STATUS, {"sec-fetch-site": "cross-site"}, "origin_not_allowed", id="a cross-site fetch"),
        pytest.param(RULES, STATUS, {"sec-fetch-site": "none"}, "anonymous", id="typed into the address bar"),
        pytest.param(OPEN, CHAT, {"origin": "https://app.example", **ALICE}, "alice", id="an allowed page"),
        pytest.param(RULES, CHAT, {"content-type": "text/plain"}, "unsupported_media_type", id="text/plain"),
        pytest.param(RULES, CHAT, {"content-type": "multipart/form-data; boundary=x"}, "unsupported_media_type", id="a form"),
        pytest.param(RULES, CHAT, {"content-type": "application/json; charset=utf-8"}, "anonymous", id="JSON with a charset"),
        pytest.param(RULES, CHAT, {"content-type": ""}, "anonymous", id="no content type, no browser"),
    ],
)  # fmt: skip
def test_who_may_do_what(
    rules: AccessRules, request_: tuple[str, str], headers: dict[str, str], expected: str
) -> None:
    """The client's name, or the code of the refusal."""
    method, path = request_
    given_headers = {**JSON, **headers}
    if "_" in expected:
        with pytest.raises(RequestError) as refused:
            decide_access(
                method=method, route=route(method, path), headers=given_headers, rules=rules
            )
        assert refused.value.code.value == expected
    elif expected == "unauthorized":
        with pytest.raises(RequestError, match="client key"):
            decide_access(
                method=method, route=route(method, path), headers=given_headers, rules=rules
            )
    else:
        access = decide_access(
            method=method, route=route(method, path), headers=given_headers, rules=rules
        )
        assert access.client == expected
        assert access.presented_key_is_ours == (expected != "anonymous")


def test_a_client_may_be_called_anonymous() -> None:
    """A name is a name: its key is ours like any other."""
    rules = AccessRules({"anonymous": "sk-a"}, "token", (), (), True, False)
    headers = {**JSON, "authorization": "Bearer sk-a"}
    access = decide_access(method="POST", route=route(*CHAT), headers=headers, rules=rules)
    assert access.presented_key_is_ours


@pytest.mark.parametrize(
    ("host", "keys", "anonymous", "fine"),
    [
        ("127.0.0.1", False, False, True), ("localhost", False, False, True), ("::1", False, False, True), ("127.5.5.5", False, False, True),
        ("0.0.0.0", False, False, False), ("192.168.1.2", False, False, False), ("::", False, False, False), ("box", False, False, False),
        ("0.0.0.0", True, False, True), ("0.0.0.0", False, True, True),
    ],
)  # fmt: skip
def test_where_it_may_listen(host: str, keys: bool, anonymous: bool, fine: bool) -> None:
    """Nobody is reachable from the network by accident."""
    assert (check_bind(host, has_keys=keys, allow_anonymous=anonymous) is None) is fine


# Routing


def local(name: str, *models: str, **more: Any) -> Candidate:
    """A local upstream."""
    return Candidate(name, Locality.LOCAL, models, **more)


def cloud(name: str, *models: str) -> Candidate:
    """A cloud upstream."""
    return Candidate(name, Locality.CLOUD, models)


A, B, C = (
    local("a", "m:7b", "org/m", "x:latest"),
    local("b", "m:7b", "other"),
    cloud("c", "gpt", "other"),
)


@pytest.mark.parametrize(
    ("model", "upstreams", "more", "expected"),
    [
        pytest.param("m:7b", [A, C], {}, ("a", "m:7b", "exact"), id="the exact id"),
        pytest.param("org/m", [A, C], {}, ("a", "org/m", "exact"), id="an id with a slash"),
        pytest.param("claude-x", [A], {"aliases": {"claude-*": "m:7b"}}, ("a", "m:7b", "alias"), id="an alias by pattern"),
        pytest.param("mine", [A, B], {"aliases": {"mine": "b/other"}}, ("b", "other", "alias"), id="an alias of upstream/model"),
        pytest.param("m:7b", [A], {"aliases": {"m:7b": "org/m"}}, ("a", "m:7b", "exact"), id="the exact id comes before an alias"),
        pytest.param("b/other", [A, B], {}, ("b", "other", "upstream/model"), id="upstream/model"),
        pytest.param("x", [A], {}, ("a", "x:latest", "latest"), id="without :latest"),
        pytest.param("anything", [local("a", "one"), C], {}, ("a", "one", "only model"), id="one local model answers to any name"),
        pytest.param("", [local("a", "one")], {}, ("a", "one", "only model"), id="and to none"),
        pytest.param("unknown", [A, B], {"default_upstream": "b"}, ("b", "unknown", "default"), id="the configured default"),
        pytest.param("m", [A, B], {"explicit_upstream": "b"}, ("b", "m", "named"), id="named in the path"),
        pytest.param("other", [B, C], {}, ("b", "other", "exact"), id="local before cloud"),
        pytest.param("m:7b", [local("a", "m:7b", healthy=False), B], {}, ("b", "m:7b", "exact"), id="the healthy one"),
        pytest.param("m:7b", [local("a", "m:7b", free_slots=0, wait_s=9.0), B], {}, ("b", "m:7b", "exact"), id="the one with a free slot"),
        pytest.param("m:7b", [local("a", "m:7b", free_slots=0, wait_s=9.0), local("b", "m:7b", free_slots=0, wait_s=2.0)], {}, ("b", "m:7b", "exact"), id="the shorter wait"),
        pytest.param("m:7b", [local("a", "m:7b", free_slots=1, wait_s=20.0), local("b", "m:7b", free_slots=0, wait_s=2.0)], {}, ("b", "m:7b", "exact"), id="a slot that is free for the failures there attracts nobody"),
        pytest.param("m:7b", [local("a", "m:7b", free_slots=0), local("b", "m:7b", free_slots=2)], {}, ("b", "m:7b", "exact"), id="a free slot where no wait is known"),
    ],
)  # fmt: skip
def test_where_a_name_leads(
    model: str, upstreams: list[Candidate], more: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    """Contracts 7, row by row."""
    found = resolve(model, upstreams=upstreams, **{"aliases": {}, **more})
    assert (found.upstream, found.model, found.how) == expected
    assert bool(found.changes) == (expected[2] in ("alias", "only model"))


@pytest.mark.parametrize("model", ["unknown", "", "gpt-5", "nobody/m"])
def test_names_that_lead_nowhere(model: str) -> None:
    """404 with the names that exist."""
    with pytest.raises(RequestError) as missing:
        resolve(model, upstreams=[A, B, C], aliases={})
    assert missing.value.status == 404
    assert "m:7b" in missing.value.message


def test_an_alias_holds_at_the_default_upstream_too() -> None:
    """Also for a model that nobody lists: a cloud is never asked what it has."""
    given: dict[str, Any] = {"upstreams": [A, cloud("c")], "default_upstream": "c"}
    found = resolve("small", aliases={"sm*": "gpt-5-mini"}, **given)
    assert (found.upstream, found.model, found.how) == ("c", "gpt-5-mini", "default")
    assert found.changes


def test_aliases_in_a_circle_end() -> None:
    """No recursion without end."""
    with pytest.raises(RequestError):
        resolve("a", upstreams=[A, B], aliases={"a": "b", "b": "a"})


NAMES = st.sampled_from(["m:7b", "gpt", "other", "zzz", "c/gpt", "x", ""])


@given(
    NAMES,
    st.lists(st.sampled_from([A, B, C]), unique=True, min_size=1),
    st.dictionaries(NAMES, st.sampled_from(["m:7b", "zzz"]), max_size=2),
)
def test_never_implicitly_to_a_cloud(
    model: str, upstreams: list[Candidate], aliases: dict[str, str]
) -> None:
    """A cloud answers for what it lists, for its own name, and for nothing else."""
    try:
        found = resolve(model, upstreams=upstreams, aliases=aliases)
    except RequestError:
        return
    if found.upstream == "c":
        assert found.model in C.models or model.startswith("c/")
