"""The operator as a process: its parts put together, its probes and metrics."""
