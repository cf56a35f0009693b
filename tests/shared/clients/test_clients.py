"""Each client's settings, read as the client reads them: by the real format and the documented names."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from penstock.clients import CLIENTS, ClientSpec, Connection, Model, apply, client_named, take_back
from penstock.clients.paths import shown

URL = "http://127.0.0.1:7367"
V1 = f"{URL}/v1"
KEY = "sk-local-1"
QWEN = Model("qwen3-coder:30b", 65_536, None, "running")
OTHER = Model("org/other", 8192, None, "explicit")
TO = Connection(URL, QWEN, (QWEN, OTHER), KEY)
KEYLESS = Connection(URL, QWEN, (QWEN, OTHER))
UNKNOWN = Connection(URL, Model("cloudy"), (Model("cloudy"),))
READERS: dict[str, Any] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}


def written(name: str, connection: Connection = TO, number: int = 0) -> Any:
    """What stands in a new settings file of a client, read by the format's own library."""
    spec = client_named(name)
    assert spec is not None
    file = spec.setup(connection).files[number]
    text, _ = apply(file.format, "", file.settings)
    return READERS[file.format](text)


def test_claude_code() -> None:
    """`env` of settings.json: strings, the running window, no changing head, every tier the same model."""
    env = written("claude")["env"]
    assert all(isinstance(value, str) for value in env.values())
    assert env["ANTHROPIC_BASE_URL"] == URL  # it adds /v1/messages
    assert env["ANTHROPIC_AUTH_TOKEN"] == KEY
    models = {value for name, value in env.items() if name.endswith("_MODEL")}
    assert models == {"qwen3-coder:30b"}
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert "CLAUDE_CODE_AUTO_COMPACT_WINDOW" not in env  # less than 100,000 would be raised to that
    large = Model("m", 131_072, None, "running")
    env_of_large = written("claude", Connection(URL, large, (large,)))["env"]
    assert env_of_large["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "131072"
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert env["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert int(env["CLAUDE_STREAM_IDLE_TIMEOUT_MS"]) >= 300_000  # less is raised to this
    assert int(env["API_TIMEOUT_MS"]) < 2**31  # larger ones overflow its timer
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in written("claude", UNKNOWN)["env"]


# openai/codex, codex-rs/model-provider-info/src/lib.rs: ModelProviderInfo, which denies unknown fields.
CODEX_FIELDS = {
    "name", "base_url", "env_key", "env_key_instructions", "experimental_bearer_token", "auth", "aws", "wire_api",
    "query_params", "http_headers", "env_http_headers", "request_max_retries", "stream_max_retries",
    "stream_idle_timeout_ms", "websocket_connect_timeout_ms", "requires_openai_auth", "supports_websockets",
}  # fmt: skip


def test_codex() -> None:
    """A provider that speaks Responses, and the running window at the top."""
    value = written("codex")
    provider = value["model_providers"]["penstock"]
    assert provider.keys() <= CODEX_FIELDS
    assert (provider["base_url"], provider["wire_api"]) == (V1, "responses")
    assert provider["experimental_bearer_token"] == KEY
    assert (value["model"], value["model_provider"]) == ("qwen3-coder:30b", "penstock")
    assert value["model_context_window"] == 65_536
    assert value["model_auto_compact_token_limit"] < 65_536
    assert provider["stream_idle_timeout_ms"] > 300_000
    # Without a key none is sent, and Codex asks for none; a name of a variable would make it insist.
    assert (
        not {"env_key", "experimental_bearer_token"}
        & written("codex", KEYLESS)["model_providers"]["penstock"].keys()
    )
    assert "model_context_window" not in written("codex", UNKNOWN)


def test_codex_started() -> None:
    """The same by -c, each value one of TOML; the key by a variable, never in the arguments."""
    spec = client_named("codex")
    assert spec is not None
    launch = spec.setup(TO).launch
    assert launch is not None
    flags = launch.arguments
    assert set(flags[::2]) == {"-c"}
    value: dict[str, Any] = tomllib.loads("\n".join(flags[1::2]))
    provider = value["model_providers"]["penstock"]
    assert provider.keys() <= CODEX_FIELDS
    assert launch.environment[provider["env_key"]] == KEY
    assert not any(KEY in flag for flag in flags)
    assert value["model_context_window"] == 65_536


# anomalyco/opencode, packages/opencode/src/config/provider.ts, as far as it is used here.
OPENCODE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://opencode.ai/config.json"},
        "model": {"type": "string", "pattern": "^[^/]+/.+"},
        "small_model": {"type": "string", "pattern": "^[^/]+/.+"},
        "provider": {
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "npm": {"type": "string"},
                    "name": {"type": "string"},
                    "options": {
                        "additionalProperties": False,
                        "required": ["baseURL", "apiKey"],
                        "properties": {
                            "baseURL": {"type": "string"},
                            "apiKey": {"type": "string"},
                            "timeout": {
                                "anyOf": [{"type": "integer", "minimum": 1}, {"const": False}]
                            },
                            "headerTimeout": {
                                "anyOf": [{"type": "integer", "minimum": 1}, {"const": False}]
                            },
                            "chunkTimeout": {"type": "integer", "minimum": 1},
                        },
                    },
                    "models": {
                        "additionalProperties": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "name": {"type": "string"},
                                "tool_call": {"type": "boolean"},
                                "limit": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["context", "output"],
                                    "properties": {
                                        "context": {"type": "number"},
                                        "output": {"type": "number"},
                                    },
                                },
                            },
                        }
                    },
                },
            }
        },
    },
}


@pytest.mark.parametrize("connection", [TO, KEYLESS, UNKNOWN], ids=["key", "no key", "no window"])
def test_opencode(connection: Connection) -> None:
    """A provider with the window of each model, which it never compacts without."""
    value = written("opencode", connection)
    jsonschema.validate(value, OPENCODE)
    provider = value["provider"]["penstock"]
    assert provider["options"]["baseURL"] == V1
    assert value["model"] == value["small_model"] == f"penstock/{connection.model.id}"
    if connection.model.window:
        assert provider["models"]["qwen3-coder:30b"]["limit"] == {"context": 65_536, "output": 8192}
        assert provider["models"]["org/other"]["limit"] == {"context": 8192, "output": 2048}


def test_opencode_started() -> None:
    """The same as the content of a configuration, in a variable."""
    spec = client_named("opencode")
    assert spec is not None
    launch = spec.setup(TO).launch
    assert launch is not None
    inline = json.loads(launch.environment["OPENCODE_CONFIG_CONTENT"])
    jsonschema.validate(inline, OPENCODE)
    assert inline["provider"] == written("opencode")["provider"]


def test_qwen_code() -> None:
    """A sealed entry for each model, the key in a variable, both clocks turned back."""
    value = written("qwen")
    first, second = value["modelProviders"]["openai"]
    assert (first["id"], first["baseUrl"]) == ("qwen3-coder:30b", V1)
    assert value["env"][first["envKey"]] == KEY
    assert not any(
        KEY in json.dumps(entry) for entry in (first, second)
    )  # credentials never stand there
    generation = first["generationConfig"]
    assert generation["contextWindowSize"] == 65_536
    assert generation["samplingParams"] == {"max_tokens": 8192}
    assert generation["timeout"] > 120_000
    assert second["generationConfig"]["contextWindowSize"] == 8192
    assert value["security"]["auth"]["selectedType"] == "openai"
    assert value["model"]["name"] == "qwen3-coder:30b"
    assert value["env"]["QWEN_STREAM_MAX_LIFETIME_MS"] == "0"
    assert int(value["env"]["QWEN_STREAM_IDLE_TIMEOUT_MS"]) > 240_000
    assert (
        "contextWindowSize"
        not in written("qwen", UNKNOWN)["modelProviders"]["openai"][0]["generationConfig"]
    )


def test_qwen_code_started() -> None:
    """The same as a file of ours that it is pointed to."""
    spec = client_named("qwen")
    assert spec is not None
    launch = spec.setup(TO).launch
    assert launch is not None
    assert json.loads(launch.files["settings.json"]) == written("qwen")
    assert launch.environment["QWEN_CODE_SYSTEM_SETTINGS_PATH"] == "{settings.json}"


# continuedev/continue, packages/config-yaml/src/schemas/models.ts.
CONTINUE_FIELDS = {
    "name", "provider", "model", "apiKey", "apiBase", "maxStopWords", "roles", "capabilities",
    "defaultCompletionOptions", "cacheBehavior", "requestOptions", "embedOptions", "chatOptions", "promptTemplates",
    "useLegacyCompletionsEndpoint", "env", "autocompleteOptions",
}  # fmt: skip


def test_continue() -> None:
    """An entry for each model with contextLength, which is 32,768 otherwise."""
    value = written("continue")
    assert {"name", "version", "schema"} <= value.keys()
    assert value["schema"] == "v1"
    first = value["models"][0]
    assert first.keys() <= CONTINUE_FIELDS
    assert (first["provider"], first["model"], first["apiBase"]) == (
        "openai",
        "qwen3-coder:30b",
        V1,
    )
    assert first["defaultCompletionOptions"] == {"contextLength": 65_536, "maxTokens": 8192}
    assert set(first["roles"]) <= {
        "chat",
        "autocomplete",
        "embed",
        "rerank",
        "edit",
        "apply",
        "summarize",
    }
    assert set(first["capabilities"]) <= {"tool_use", "image_input"}
    assert first["requestOptions"]["timeout"] == 7200
    assert value["models"][1]["defaultCompletionOptions"]["contextLength"] == 8192


def test_aider() -> None:
    """OpenAI's dialect, and the metadata that tells the window."""
    value = written("aider")
    assert value["model"] == value["weak-model"] == "openai/qwen3-coder:30b"
    assert (value["openai-api-base"], value["openai-api-key"]) == (V1, KEY)
    entry = written("aider", number=1)["openai/qwen3-coder:30b"]
    assert (entry["max_input_tokens"], entry["max_output_tokens"]) == (65_536, 8192)
    assert entry["litellm_provider"] == "openai"  # must be the model's prefix
    assert "max_input_tokens" not in written("aider", UNKNOWN, 1)["openai/cloudy"]


def test_zed() -> None:
    """A provider with windows as max_tokens; the key stands nowhere in the file."""
    value = written("zed")
    provider = value["language_models"]["openai_compatible"]["penstock"]
    first = provider["available_models"][0]
    assert provider["api_url"] == V1
    assert (first["name"], first["max_tokens"], first["max_output_tokens"]) == (
        "qwen3-coder:30b",
        65_536,
        8192,
    )
    assert first["capabilities"].keys() <= {
        "tools", "images", "parallel_tool_calls", "prompt_cache_key", "chat_completions", "interleaved_reasoning",
        "max_tokens_parameter",
    }  # fmt: skip
    assert value["agent"]["default_model"] == {"provider": "penstock", "model": "qwen3-coder:30b"}
    assert KEY not in json.dumps(value)
    spec = client_named("zed")
    assert spec is not None
    assert spec.setup(TO).environment == {
        "PENSTOCK_API_KEY": KEY
    }  # the provider's name in capitals


def test_litellm() -> None:
    """Entries of model_list with the window as max_input_tokens and no retries on top of ours."""
    first, second = written("litellm")["model_list"]
    assert first["model_name"] == "qwen3-coder:30b"
    assert first["litellm_params"]["model"] == "openai/qwen3-coder:30b"
    assert (first["litellm_params"]["api_base"], first["litellm_params"]["max_retries"]) == (V1, 0)
    assert first["model_info"]["max_input_tokens"] == 65_536
    assert second["model_info"]["max_input_tokens"] == 8192


def test_open_webui_and_the_environment() -> None:
    """Variables: by OpenAI's dialect only, and every dialect's own."""
    webui, env = client_named("open-webui"), client_named("env")
    assert webui is not None
    assert env is not None
    variables = webui.setup(TO).environment
    assert (variables["OPENAI_API_BASE_URL"], variables["OPENAI_API_KEY"]) == (V1, KEY)
    assert variables["ENABLE_OLLAMA_API"] == "false"
    plain = env.setup(TO).environment
    assert (plain["OPENAI_BASE_URL"], plain["ANTHROPIC_BASE_URL"], plain["OLLAMA_HOST"]) == (
        V1,
        URL,
        URL,
    )


def test_cline() -> None:
    """Every value that has to be typed in."""
    spec = client_named("cline")
    assert spec is not None
    steps = "\n".join(spec.setup(TO).steps)
    assert all(part in steps for part in (V1, KEY, "qwen3-coder:30b", "65536", "8192"))
    assert spec.cannot_write


ALL = pytest.mark.parametrize("spec", CLIENTS, ids=lambda s: s.name)


@ALL
def test_every_client_gets_the_running_window_or_says_that_it_cannot(spec: ClientSpec) -> None:
    """65,536 stands somewhere in what it gets, or a note tells why no window can."""
    setup = spec.setup(TO)
    everything = (
        repr([f.settings for f in setup.files]) + repr(dict(setup.environment)) + repr(setup.steps)
    )
    assert "65536" in everything or any("window" in note for note in setup.notes)
    assert "qwen3-coder:30b" in everything


@ALL
def test_every_client_is_written_with_care(spec: ClientSpec) -> None:
    """A title, its sources, either a file or why there is none; a number comes with where it is from."""
    assert spec.title
    assert spec.sources
    assert bool(spec.setup(TO).files) != bool(spec.cannot_write)
    assert bool(spec.own_tokens) == bool(spec.own_tokens_from)
    assert spec.setup(TO).launch is not None or spec.cannot_write
    for file in spec.setup(TO).files:
        assert all(setting.why for setting in file.settings)


OLD = {
    "json": '// mine\n{\n  "env": { "FOO": "1" }, // foo\n  "model": "theirs",\n  /* end */\n}\n',
    "toml": '# mine\nmodel = "theirs" # m\n\n[model_providers.other] # o\nname = "x"\n',
    "yaml": "# mine\nmodel: theirs # m\nmodels:\n  - name: theirs\n    model: x # y\n# end\n",
}


@ALL
def test_what_was_there_comes_back(spec: ClientSpec) -> None:
    """Put into a file with other settings and taken out again, each of them is there and means the same."""
    for file in spec.setup(TO).files:
        old = "{}\n" if file.names == (".aider.model.metadata.json",) else OLD[file.format]
        if spec.name == "qwen":  # an object there
            old = old.replace('"theirs"', '{"theirs": 1}')
        new, undos = apply(file.format, old, file.settings)
        assert new != old
        back, kept = take_back(file.format, new, undos)
        assert kept == ()
        reader = READERS[file.format]
        if file.format != "json":
            assert reader(back) == reader(old)
        comments = [
            line.split(sign, 1)[1]
            for sign in ("//", "#", "/*")
            for line in old.splitlines()
            if sign in line
        ]
        assert all(comment in back and comment in new for comment in comments)


@ALL
def test_values_that_the_user_changed_are_left(spec: ClientSpec) -> None:
    """Taken back is only what is still ours; the rest is named."""
    for file in spec.setup(TO).files:
        new, undos = apply(file.format, "", file.settings)
        changed = new.replace(V1, "http://127.0.0.1:1/v1")
        if changed == new:
            continue
        back, kept = take_back(file.format, changed, undos)
        assert kept
        assert "http://127.0.0.1:1/v1" in back
        assert all(name in {shown(setting.path) for setting in file.settings} for name in kept)
