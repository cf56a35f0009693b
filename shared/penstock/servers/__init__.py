"""
The model servers that Penstock knows, one file per kind.

Adding a server means adding one file that declares a `ServerSpec` (see `base`), its line in `SPECS`, and
its recorded answers under `tests/`.
"""
