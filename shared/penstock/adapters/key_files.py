"""
Client keys in a folder: each file is named after the client whose key it holds.

A Secret is mounted like that. Kubernetes writes a new folder beside the old one and swaps the symbolic link
`..data`, so names that begin with a dot are the mount's own.

Source: kubernetes `pkg/volume/util/atomic_writer.go`.
"""

from __future__ import annotations

from pathlib import Path

_LONGEST_NAME = 64


def key_files(folder: str | None, problems: list[str]) -> dict[str, Path]:
    """
    The files of *folder* by the client's name; none for no folder.

    Args:
        problems: gets a sentence for what cannot be used.
    """
    if folder is None:
        return {}
    try:
        files = sorted(Path(folder).expanduser().iterdir())
    except OSError as exc:
        problems.append(
            f"listen.client_keys_dir: the folder {folder} cannot be read: {exc.strerror}"
        )
        return {}
    found = {f.name: f for f in files if not f.name.startswith(".") and f.is_file()}
    for name in [name for name in found if len(name) > _LONGEST_NAME]:
        problems.append(
            f"listen.client_keys_dir: {name[:_LONGEST_NAME]}...: expected a name of at most 64 signs"
        )
        del found[name]
    return found
