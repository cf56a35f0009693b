"""
The only code that touches the world: sockets, probes, the machine, files, child processes.

What belongs here: effects behind narrow interfaces, and the translation of foreign errors into ours.
What does not: decisions.
"""
