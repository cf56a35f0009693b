"""
What may be asked of an upstream: its window, and the length of an answer. Decisions only.

`sizes` reads sizes from names, `window` decides the window, `output` the output budget, `overrides`
parses what people write, `cloud` knows documented windows, `text_size` bounds a prompt's tokens.
"""

from penstock.limits.cloud import CloudWindow, cloud_window
from penstock.limits.keep_alive import keep_alive_class, keep_alive_s
from penstock.limits.num_ctx import NumCtx, choose_num_ctx
from penstock.limits.options import LimitOptions
from penstock.limits.output import OutputBudget, output_budget
from penstock.limits.overrides import LocalModelEnvironment, parse_tokens
from penstock.limits.sizes import parameter_count, size_class
from penstock.limits.text_size import prompt_lower_bound
from penstock.limits.window import decide_window, explicit_window

__all__ = [
    "CloudWindow",
    "LimitOptions",
    "LocalModelEnvironment",
    "NumCtx",
    "OutputBudget",
    "choose_num_ctx",
    "cloud_window",
    "decide_window",
    "explicit_window",
    "keep_alive_class",
    "keep_alive_s",
    "output_budget",
    "parameter_count",
    "parse_tokens",
    "prompt_lower_bound",
    "size_class",
]
