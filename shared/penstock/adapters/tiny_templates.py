"""
Chat templates for the tiny models (Jinja, as they stand in a GGUF header).

`CHATML_TEMPLATE` is the plainest. `HERMES_TEMPLATE` knows tools, as Qwen 2.5 and its kin do: llama.cpp
recognises the format and parses `<tool_call>` into tool calls. `THINKING_TEMPLATE` is the same for a model
that thinks: reasoning is shown of messages after the last user message and stripped from all before, as
Qwen 3 and its kin do, so that each new turn changes the prefix.
"""

from __future__ import annotations

CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


_TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n\\nYou may call one or more functions.\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments"
    " within <tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}{%- endif %}'
)


def _hermes(*, call_thought: str = "", text_thought: str = "") -> str:
    """The template of Hermes; what is inserted before an assistant's calls and before any text."""
    return (
        _TOOLS + "{%- for message in messages %}"
        "{%- if message.role == 'assistant' and message.tool_calls %}{{- '<|im_start|>assistant' }}"
        + call_thought
        + "{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}"
        "{%- for tool_call in message.tool_calls %}"
        "{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}"
        '{{- \'\\n<tool_call>\\n{"name": "\' }}{{- tool_call.name }}{{- \'", "arguments": \' }}'
        "{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
        "{%- elif message.role == 'tool' %}"
        "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}"
        "{%- else %}{{- '<|im_start|>' + message.role + '\\n' }}"
        + text_thought
        + "{{- message.content + '<|im_end|>\\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )


HERMES_TEMPLATE = _hermes()

_THOUGHT = (
    "{%- if message.reasoning_content and loop.index0 > last.user %}"
    "{{- BEFORE + '<think>\\n' + message.reasoning_content + '\\n</think>' + AFTER }}{%- endif %}"
)
THINKING_TEMPLATE = (
    "{%- set last = namespace(user=-1) %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}"
    + _hermes(
        call_thought=_THOUGHT.replace("BEFORE", "'\\n'").replace("AFTER", "''"),
        text_thought=_THOUGHT.replace("BEFORE", "''").replace("AFTER", "'\\n\\n'"),
    )
)
