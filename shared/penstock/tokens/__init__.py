"""
How many tokens is it? What every message of a conversation weighs for one model: exactly where its server
counts, by a frozen measure elsewhere, and how far such a measure can be off.
"""
