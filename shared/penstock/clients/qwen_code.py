"""
Qwen Code: an entry in `modelProviders.openai` of its `settings.json`, selected.

The entry is a sealed package: everything stands in its `generationConfig`, and what stands elsewhere is ignored
for it. Keys are never in settings but in a variable, which the file's own `env` sets. Two clocks are variables
only: `QWEN_STREAM_IDLE_TIMEOUT_MS` (240 s between parsed chunks) and `QWEN_STREAM_MAX_LIFETIME_MS`, the 15 minutes
that a stream may live; versions that do not read the latter end a longer answer whatever the gateway does.

`--run` hands the same over as a system settings file, which wins over the user's own without touching it.

Sources: QwenLM/qwen-code, docs/users/configuration/model-providers.md (entries, `generationConfig`, `envKey`) and
settings.md (`env`, `security.auth.selectedType`, `model.name`, QWEN_CODE_SYSTEM_SETTINGS_PATH).
"""

from __future__ import annotations

import json
from typing import Any

from penstock.clients.base import (
    ClientFile,
    ClientSpec,
    Connection,
    Folder,
    Launch,
    Model,
    Setup,
    Traces,
)
from penstock.clients.edits import Setting
from penstock.clients.paths import item, nested

FOLDER = Folder(home=(".qwen",))
KEY_VARIABLE = "PENSTOCK_API_KEY"
CLOCKS = {
    "QWEN_STREAM_IDLE_TIMEOUT_MS": ("1800000", "half an hour between chunks, for 4 minutes"),
    "QWEN_STREAM_MAX_LIFETIME_MS": ("0", "no bound on the life of a stream, for 15 minutes"),
}


def _entry(connection: Connection, model: Model) -> dict[str, Any]:
    generation: dict[str, Any] = {
        "timeout": 3_600_000,
        "maxRetries": 1,
        "samplingParams": {"max_tokens": model.output_tokens},
    }
    if model.window is not None:
        generation["contextWindowSize"] = model.window
    return {
        "id": model.id,
        "name": f"{model.id} (Penstock)",
        "envKey": KEY_VARIABLE,
        "baseUrl": connection.openai_url,
        "generationConfig": generation,
    }


def setup(connection: Connection) -> Setup:
    """What Qwen Code gets."""
    entries = [(model, _entry(connection, model)) for model in connection.models]
    settings = (
        *(
            Setting(("modelProviders", "openai", item(id=model.id, envKey=KEY_VARIABLE)), entry,
                    "address, window as it runs, output limit, an hour's patience")
            for model, entry in entries
        ),
        Setting(("security", "auth", "selectedType"), "openai", "OpenAI's dialect"),
        Setting(("model", "name"), connection.model.id, "the model"),
        Setting(("env", KEY_VARIABLE), connection.any_key, "the key"),
        *(Setting(("env", name), value, why) for name, (value, why) in CLOCKS.items()),
    )  # fmt: skip
    whole: dict[str, Any] = {"modelProviders": {"openai": [entry for _, entry in entries]}}
    for setting in settings[len(entries) :]:
        first, inner = setting.path[0], nested(setting.path[1:], setting.value)
        assert isinstance(first, str)
        whole[first] = {**whole.get(first, {}), **inner}
    clocks = {name: value for name, (value, _) in CLOCKS.items()}
    return Setup(
        environment={
            "OPENAI_API_KEY": connection.any_key,
            "OPENAI_BASE_URL": connection.openai_url,
            "OPENAI_MODEL": connection.model.id,
            **clocks,
        },
        files=(ClientFile(FOLDER, ("settings.json",), "json", settings),),
        launch=Launch(
            "qwen",
            (),
            {
                KEY_VARIABLE: connection.any_key,
                "QWEN_CODE_SYSTEM_SETTINGS_PATH": "{settings.json}",
                **clocks,
            },
            unset=("OPENAI_MODEL", "QWEN_MODEL"),
            files={"settings.json": json.dumps(whole, indent=2, ensure_ascii=False) + "\n"},
        ),
    )


SPEC = ClientSpec(
    name="qwen",
    title="Qwen Code",
    dialect="OpenAI chat",
    setup=setup,
    also=("qwen-code",),
    traces=Traces(("qwen",), (FOLDER,)),
    own_tokens=15_000,
    own_tokens_from="a first request of 62,097 characters (0.24.4)",
    cannot_prevent=(
        (
            "ends every stream after 15 minutes, however lively it is; connected, it is told not to "
            "(QWEN_STREAM_MAX_LIFETIME_MS=0), but versions that do not know this variable still do"
        ),
    ),
    sources=(
        "github.com/QwenLM/qwen-code: docs/users/configuration/model-providers.md, settings.md",
    ),
)
