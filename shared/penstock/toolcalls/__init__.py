"""
Tool calls that are right: arguments repaired by the tool's own JSON Schema, calls that a model wrote as
text, schemas that a server's grammar can take (behaviours E).
"""

from penstock.toolcalls.history import mend_history
from penstock.toolcalls.options import ToolCallOptions
from penstock.toolcalls.project import project_request

__all__ = ["ToolCallOptions", "mend_history", "project_request"]
