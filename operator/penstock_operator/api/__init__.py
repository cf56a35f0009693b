"""The API server: what is read from it and written to it, what it told, and what we may do there."""
