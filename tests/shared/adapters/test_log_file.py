"""The log file: bounded, written by a thread of its own, and nobody's trouble when the disk is full."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.adapters.log_file import LogFile
from penstock.adapters.log_tail import follow, last_lines


def eventually(condition: Callable[[], object]) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_come_in_order_and_files_are_set_aside(tmp_path: Path) -> None:
    """By size and number; together they hold the end of what was written."""
    path = tmp_path / "log" / "gateway.log"
    log = LogFile(path, most_bytes=400, keep=2)
    for number in range(100):
        log.write(f"line {number:04d}\n")
        eventually(lambda: not log._lines) if number % 10 == 9 else None
    log.close()
    files = [path.with_name("gateway.log.2"), path.with_name("gateway.log.1"), path]
    assert sorted(f.name for f in path.parent.iterdir()) == sorted(f.name for f in files)
    assert all(0 < file.stat().st_size <= 400 for file in files)
    told = "".join(file.read_text() for file in files).split("\n")[:-1]
    assert told == [f"line {number:04d}" for number in range(100 - len(told), 100)]
    assert last_lines(path, 2) == ["line 0098", "line 0099"]


def test_a_full_disk_costs_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever logs notices nothing; how many are missing is told once there is room again."""
    path = tmp_path / "gateway.log"
    log = LogFile(path, most_bytes=10_000, keep=1)
    write = os.write
    full = threading.Event()

    def scarce(descriptor: int, data: bytes) -> int:
        if full.is_set() and bytes(data).endswith(b"\n"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("penstock.adapters.log_file.os.write", scarce)
    full.set()
    log.write("a\nb\n")
    eventually(lambda: log.problem)
    assert "No space left" in (log.problem or "")
    full.clear()
    log.write("c\n")
    eventually(lambda: log.problem is None)
    log.close()
    assert path.read_text() == "(2 lines could not be written here)\nc\n"


def test_a_disk_that_hangs_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded; the end is not waited for either."""
    hangs = threading.Event()
    monkeypatch.setattr(
        "penstock.adapters.log_file.os.write", lambda d, data: hangs.wait(30) and len(data)
    )
    log = LogFile(tmp_path / "gateway.log", most_bytes=10_000, keep=1)
    for _ in range(600):
        log.write("x" * 10_000 + "\n")
    assert log._waiting_bytes <= 4 * 1024 * 1024
    assert log._lost > 0
    log.close(within_s=0.01)
    hangs.set()
    log._thread.join(10)


def test_the_end_of_a_log_is_followed_over_a_change_of_files(tmp_path: Path) -> None:
    """Half a line is waited for; a file that is set aside is left for the new one."""
    path = tmp_path / "gateway.log"
    found: list[str] = []

    def read() -> None:
        for line in follow(path):
            found.append(line)
            if line == "end":
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def is_read() -> bool:
        with path.open("ab") as file:
            file.write(b"start\n")
        return bool(found)

    eventually(is_read)
    with path.open("ab") as file:
        file.write(b"one\ntw")
    eventually(lambda: found[-1] == "one")
    found.clear()
    with path.open("ab") as file:
        file.write(b"o\n")
    eventually(lambda: found == ["two"])
    path.replace(tmp_path / "gateway.log.1")
    path.write_bytes(b"three\r\nend\n")
    reader.join(10)
    assert found == ["two", "three", "end"]


@pytest.mark.parametrize(
    ("text", "count", "lines"),
    [
        pytest.param("", 3, [], id="empty"),
        pytest.param("a\nb\nc\n", 2, ["b", "c"], id="the last two"),
        pytest.param("a\nb", 5, ["a", "b"], id="fewer than asked for"),
        pytest.param("a\nb\n", 0, [], id="none"),
        pytest.param("é" * 40_000 + "\nb\n", 2, ["é" * 40_000, "b"], id="a long line"),
    ],
)
def test_last_lines(tmp_path: Path, text: str, count: int, lines: list[str]) -> None:
    """Without reading all of a long file."""
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    assert last_lines(path, count) == lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("a" * 300_000 + "\nb\nc\n", ["b", "c"], id="a line that began before"),
        pytest.param("a" * 300_000, ["a" * 100], id="nothing but one line"),
        pytest.param("a\nb\n", ["a", "b"], id="a short file"),
    ],
)
def test_no_more_is_read_than_allowed(tmp_path: Path, text: str, lines: list[str]) -> None:
    """However long the lines are."""
    path = tmp_path / "log"
    path.write_text(text)
    assert last_lines(path, 3, most_bytes=100) == lines
