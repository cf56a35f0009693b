"""One tray for each user, and what the folder watch notices."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from penstock_tray import instance
from penstock_tray.folder_watch import FolderWatch
from penstock_tray.instance import Instance, NoTray, TrayHangs, ask, take_or_ask


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_one_holds_the_lock_until_it_leaves() -> None:
    """A second one gets none; after the first has left, with no file left behind, another one does."""
    first = Instance.take()
    assert first is not None
    assert Instance.take() is None
    first.leave()
    assert not instance._lock_path().exists()
    second = Instance.take()
    assert second is not None
    second.leave()


@pytest.mark.skipif(sys.platform == "win32", reason="platform: signals")
def test_the_lock_goes_with_its_process() -> None:
    """A tray that was killed keeps nobody out, not even while a child of its own lives on."""
    code = (
        "import subprocess, sys; from penstock_tray.instance import Instance; held = Instance.take();"
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL);"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    child = int(holder.stdout.readline())
    assert Instance.take() is None
    holder.kill()
    holder.wait()
    taken = Instance.take()
    os.kill(child, 15)
    holder.stdout.close()
    holder.stdin.close()
    assert taken is not None
    taken.leave()


def test_another_process_speaks_to_the_holder() -> None:
    """A word with the token arrives; one without is not heard, and nor is one that nobody knows."""

    async def play() -> None:
        heard: list[str] = []
        holder = Instance.take()
        assert holder is not None
        await holder.listen(heard.append)
        assert instance._address_path().stat().st_mode & 0o077 == 0 or os.name == "nt"
        assert await asyncio.to_thread(ask, "show") == os.getpid()
        with pytest.raises(TrayHangs):
            await asyncio.to_thread(ask, "rm -rf")
        path = instance._address_path()
        value = path.read_text()
        path.write_text(value.replace('"token": "', '"token": "0'))
        with pytest.raises(TrayHangs, match=f"process {os.getpid()}"):
            await asyncio.to_thread(ask, "show")
        assert heard == ["show"]
        holder.leave()

    asyncio.run(play())


def test_without_a_tray_that_is_said() -> None:
    """Nothing runs: a sentence, and no file."""
    with pytest.raises(NoTray, match="No Penstock tray runs"):
        ask("show")


def test_who_only_asks_keeps_no_tray_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that was held for a moment, by one that asked, is taken as soon as it is free."""
    take, tries = Instance.take, list[int]()

    def held_at_first() -> Instance | None:
        tries.append(1)
        return None if len(tries) == 1 else take()

    monkeypatch.setattr(Instance, "take", held_at_first)
    mine = take_or_ask("look")
    assert isinstance(mine, Instance)
    mine.leave()


def test_a_file_that_appears_is_noticed_at_once(tmp_path: Path) -> None:
    """The wait ends by a file, by a call, or by its time."""
    watch = FolderWatch(tmp_path / "new" / "folder")

    def appear() -> None:
        time.sleep(0.1)
        (tmp_path / "new" / "folder" / "1.json").write_text("{}")

    threading.Thread(target=appear).start()
    began = time.monotonic()
    watch.wait(60.0)
    assert time.monotonic() - began < 50
    watch.wake()
    watch.wait(60.0)
    watch.wait(0.0)
