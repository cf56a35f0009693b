"""
Tool calls that are right: arguments repaired by the tool's own JSON Schema, calls that a model wrote as
text, schemas that a server's grammar can take, a history that no server chokes on (behaviours E).

`schema.ToolSet` holds what a request offers, `arguments.check_arguments` judges and repairs one call,
`recover.recover_calls` finds calls in text, `project.project_request` and `history.mend_history` change a
request before it is sent. They are imported from their modules: the settings need the options only, and
the libraries behind the rest take a while to load.
"""

from penstock.toolcalls.options import ToolCallOptions

__all__ = ["ToolCallOptions"]
