"""
Tool calls that are right: arguments repaired by the tool's own JSON Schema, calls that a model wrote as
text, schemas that a server's grammar can take, a history that no server chokes on (behaviours E).

`ToolSet` holds what a request offers, `check_arguments` judges and repairs one call, `recover_calls` finds
calls in text, `project_request` and `mend_history` change a request before it is sent.
"""

from penstock.toolcalls.arguments import Checked, Verdict, check_arguments
from penstock.toolcalls.history import mend_history
from penstock.toolcalls.options import ToolCallOptions
from penstock.toolcalls.project import project_request, project_schema
from penstock.toolcalls.recover import Recovered, may_become_call, recover_calls
from penstock.toolcalls.repair import repair_value
from penstock.toolcalls.schema import ToolSchema, ToolSet

__all__ = [
    "Checked",
    "Recovered",
    "ToolCallOptions",
    "ToolSchema",
    "ToolSet",
    "Verdict",
    "check_arguments",
    "may_become_call",
    "mend_history",
    "project_request",
    "project_schema",
    "recover_calls",
    "repair_value",
]
