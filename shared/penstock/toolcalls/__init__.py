"""
Tool calls that are right: arguments repaired by the tool's own JSON Schema, calls that a model wrote as
text, schemas that a server's grammar can take (behaviours E).
"""

from penstock.toolcalls.options import ToolCallOptions

__all__ = ["ToolCallOptions"]
