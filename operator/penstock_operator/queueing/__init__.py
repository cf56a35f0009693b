"""Which LocalModel is looked at next, and by whom."""
