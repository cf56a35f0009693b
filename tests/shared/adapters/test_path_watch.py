"""Files and folders that are followed: what counts as a change."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.adapters.files import write_atomically
from penstock.adapters.path_watch import PathWatch


def test_replaced_files_are_noticed(tmp_path: Path) -> None:
    """Written in place, by rename, and by the swap of a ConfigMap's symbolic link."""
    for number in (1, 2):
        (tmp_path / f"..v{number}").mkdir()
        (tmp_path / f"..v{number}" / "penstock.yaml").write_text("version: 1\n")
    (tmp_path / "..data").symlink_to(tmp_path / "..v1")
    (tmp_path / "penstock.yaml").symlink_to(tmp_path / "..data" / "penstock.yaml")
    watch = PathWatch(tmp_path / "penstock.yaml")
    assert not watch.changed()
    (tmp_path / "..tmp").symlink_to(tmp_path / "..v2")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert watch.changed()
    assert not watch.changed()
    write_atomically(tmp_path / "..v2" / "penstock.yaml", b"version: 1\nlog: {level: debug}\n")
    assert watch.changed()
    (tmp_path / "..v2" / "penstock.yaml").unlink()
    assert not watch.changed()


def test_files_of_a_folder_are_noticed(tmp_path: Path) -> None:
    """One that comes, is replaced or goes; the mount's own names with a dot are not asked about."""
    folder = tmp_path / "keys"
    folder.mkdir()
    watch = PathWatch(folder)
    (folder / "phone").write_text("one")
    assert watch.changed()
    assert not watch.changed()
    write_atomically(folder / "phone", b"two")
    assert watch.changed()
    (folder / "phone").unlink()
    assert watch.changed()
    assert not watch.changed()
    folder.rmdir()
    assert not watch.changed()
