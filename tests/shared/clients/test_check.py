"""What does not fit between a client and its gateway is said: before, and by doctor."""

from __future__ import annotations

import pytest

from penstock.clients import (
    CLIENTS,
    ClientSpec,
    Connected,
    Connection,
    Model,
    NoModel,
    choose,
    client_named,
    doubts,
    read_models,
    remarks,
)

URL = "http://127.0.0.1:7367"


def named(name: str) -> ClientSpec:
    """One of the table."""
    found = client_named(name)
    assert found is not None
    return found


def to(window: int | None, source: str = "running") -> Connection:
    """A connection to one model."""
    model = Model("m", window, None, source)
    return Connection(URL, model, (model,))


@pytest.mark.parametrize(
    ("client", "window", "says"),
    [
        pytest.param("claude", 16_384, ["too small for Claude Code", "about 24,000", "13,000 free", "53,248"],
                     id="smaller than its own prompt"),
        pytest.param("claude", 49_152, ["tight for Claude Code"], id="fits, and compacts often"),
        pytest.param("claude", 65_536, [], id="room enough"),
        pytest.param("codex", 12_288, ["too small for Codex"], id="with its output it is more than the window"),
        pytest.param("opencode", 32_768, [], id="opencode at 32k"),
        pytest.param("open-webui", 2_048, [], id="a chat app has no prompt to speak of"),
    ],
)  # fmt: skip
def test_a_window_too_small_for_the_agents_own_prompt(
    client: str, window: int, says: list[str]
) -> None:
    """By the number of its own tokens, with what would do."""
    found = doubts(named(client), to(window))
    assert len(found) == bool(says)
    assert all(part in found[0] for part in says)


def test_windows_that_nobody_knows_or_that_are_assumed() -> None:
    """Are said to be so."""
    assert "Nobody tells the window of m" in doubts(named("claude"), to(None))[0]
    assert "only assumed" in doubts(named("claude"), to(262_144, "name"))[0]


def test_output_limits_leave_the_window_to_the_prompt() -> None:
    """A quarter of it, at most 8,192, unless the gateway says a number."""
    assert Model("m", 2048).output_tokens == 512
    assert Model("m", 262_144).output_tokens == 8192
    assert Model("m", None).output_tokens == 8192
    assert Model("m", 512).output_tokens == 256
    assert Model("m", 32_768, 1000).output_tokens == 1000


def test_the_gateways_listing_is_read() -> None:
    """Window and source; a cloud model may have neither."""
    local, cloud = read_models(
        [
            {"id": "a", "context_window": 4096, "window_source": "running", "meta": {"n_ctx_train": 131072}},
            {"id": "b", "root": "a"},
        ]
    )  # fmt: skip
    assert (local.window, local.source) == (4096, "running")
    assert (cloud.window, cloud.output, cloud.source) == (None, None, "")
    assert (local.is_alias, cloud.is_alias) == (False, True)


MODELS = (
    Model("gpt-4o", 128_000),
    Model("nomic-embed-text", 2048, None, "running"),
    Model("qwen3:latest", 8192, None, "running"),
    Model("asleep", 4096, None, "name"),
    Model("other", 4096, None, "explicit"),
    Model("claude-local", 8192, None, "running", True),
)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        pytest.param(None, ["qwen3:latest", "other"], id="the first local one that chats"),
        pytest.param("qwen3", ["qwen3:latest", "other"], id="without its tag"),
        pytest.param(
            "claude-local", ["claude-local", "qwen3:latest", "other"], id="named, an alias"
        ),
        pytest.param("gpt-4o", ["gpt-4o", "qwen3:latest", "other"], id="named, a cloud's"),
        pytest.param("asleep", ["asleep", "qwen3:latest", "other"], id="named, not loaded"),
    ],
)
def test_which_model_a_client_gets(wanted: str | None, ids: list[str]) -> None:
    """The chosen one first; of the others only those with a window that is known."""
    assert [m.id for m in choose(MODELS, wanted)] == ids


def test_models_that_are_not_there() -> None:
    """Are answered with those that are."""
    with pytest.raises(NoModel, match=r"no model 'x'\. It has: gpt-4o, nomic"):
        choose(MODELS, "x")
    with pytest.raises(NoModel, match="no model yet"):
        choose((), None)


@pytest.mark.parametrize(
    ("record", "good", "says"),
    [
        pytest.param(Connected("codex", URL, "m", 8192), True, "is connected with m and its window of 8,192",
                     id="as it is"),
        pytest.param(Connected("codex", URL, "m", 32_768), False, "was told 32,768 tokens for m, which runs with 8,192",
                     id="a window that is no more"),
        pytest.param(Connected("codex", URL, "gone", 8192), False, "gone, which is not there any more",
                     id="a model that is no more"),
        pytest.param(Connected("codex", "http://box:1", "m", 8192), None, "no gateway of yours runs now",
                     id="another gateway"),
    ],
)  # fmt: skip
def test_doctor_on_connected_clients(record: Connected, good: bool | None, says: str) -> None:
    """What they were told is compared with what runs."""
    gateways = {URL: (Model("m", 8192, None, "running"),)}
    first, *more = remarks(CLIENTS, [record], [], gateways, "penstock")
    assert (first.what, first.good) == ("Codex", good)
    assert says in first.says
    assert first.do is None if good else "penstock connect codex --write" in str(first.do)
    assert any("sends the whole request again" in remark.says for remark in more)


def test_doctor_says_what_cannot_be_prevented() -> None:
    """Of clients that are here, connected or not; of others nothing."""
    found = remarks(CLIENTS, [], ["qwen", "zed"], {}, "penstock")
    (remark,) = found
    assert (remark.what, remark.good) == ("Qwen Code", None)
    assert "15 minutes" in remark.says


@pytest.mark.parametrize(
    ("name", "client"),
    [("claude", "claude"), ("Claude-Code", "claude"), ("claude_code", "claude"), ("qwen-code", "qwen"),
     ("openwebui", "open-webui"), ("Open WebUI", "open-webui"), ("nothing", None)],
)  # fmt: skip
def test_clients_by_the_names_that_people_use(name: str, client: str | None) -> None:
    """Spellings are forgiven."""
    found = client_named(name)
    assert (found.name if found else None) == client
