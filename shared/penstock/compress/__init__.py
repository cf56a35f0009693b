"""
What to leave out when a conversation is too long. Watermark replay: where a cut lies is a pure function of
the conversation, so that every replica cuts at the same place and the server's prefix cache stays warm
between cuts (contracts 9).
"""

from penstock.compress.options import ContextOptions, Marks

__all__ = ["ContextOptions", "Marks"]
