"""One run of a command under its warden: what is seen of it, and that it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loops import Run, on_both_loops, until
from penstock.adapters.log_file import LogFile
from penstock.adapters.server_process import ServerProcess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX shells and signals")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    """Where the output goes."""
    file = LogFile(tmp_path / "server.log", most_bytes=20_000, keep=1)
    yield file
    file.close()


async def begin(log: LogFile, script: str, stop_s: float = 3.0) -> ServerProcess:
    """A shell's script."""
    return await ServerProcess.begin(["sh", "-c", script], log=log, stop_s=stop_s)


def ends_with(path: Path, end: bytes) -> bool:
    """Whether the file ends so; while it is set aside there is none."""
    try:
        return path.read_bytes().endswith(end)
    except FileNotFoundError:
        return False


@on_both_loops
@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param("exit 0", 0, id="fine"),
        pytest.param("exit 7", 7, id="code"),
        pytest.param("kill -9 $$", -9, id="signal"),
    ],
)
def test_how_it_ends_is_seen(log: LogFile, run: Run, script: str, code: int) -> None:
    """Its code or signal, and the last of what it wrote."""

    async def scene() -> None:
        process = await begin(log, f"echo to out; echo to err >&2; {script}")
        await process.ended()
        assert process.code == code
        assert process.tail() == "to out\nto err\n"
        assert not process.alive
        await process.stop()

    run(scene())
    log.close()
    assert log.path.read_text() == "to out\nto err\n"


@on_both_loops
def test_a_command_that_cannot_be_started(log: LogFile, run: Run) -> None:
    """The reason is told in words."""

    async def scene() -> None:
        process = await ServerProcess.begin(["/no/such/server"], log=log, stop_s=1.0)
        await process.ended()
        assert process.failed == "/no/such/server cannot be started: No such file or directory"
        await process.stop()

    run(scene())


@on_both_loops
def test_a_stop_is_graceful(log: LogFile, run: Run) -> None:
    """SIGTERM comes first, and what is said then is still heard."""

    async def scene() -> None:
        process = await begin(
            log, "trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.01; done"
        )
        await until(lambda: process.tail() == "on\n")
        await process.stop()
        assert process.code == 0
        assert process.tail().endswith("bye\n")

    run(scene())


@on_both_loops
def test_what_a_dead_leader_leaves_is_ended(log: LogFile, run: Run) -> None:
    """Workers of a server that crashed go before it is started again: they hold its memory and its port."""

    async def scene() -> None:
        process = await begin(
            log, "sleep 300 & echo $!; trap '' TERM; sleep 301 & echo $!; kill -9 $$"
        )
        await process.ended()
        pids = [int(line) for line in process.tail().split()]
        assert len(pids) == 2
        await process.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)

    run(scene())


def test_much_output_holds_nobody_up(log: LogFile) -> None:
    """Megabytes go through, what is kept is small, in memory as on disk."""

    async def scene() -> None:
        for _ in range(3):
            process = await begin(log, "yes 'a line of output' | head -c 3000000; echo end")
            await process.ended()
            await process.stop()
            assert process.tail().endswith("end\n")
            assert len(process.tail()) <= 8192
            await until(lambda: ends_with(log.path, b"end\n"))
            log.write("next\n")
            await until(lambda: ends_with(log.path, b"next\n"))

    asyncio.run(scene())
    log.close()
    files = sorted(log.path.parent.iterdir())
    assert [file.name for file in files] == ["server.log", "server.log.1"]


def test_a_full_disk_costs_lines_only(tmp_path: Path) -> None:
    """A log that cannot be written stops no server."""
    (tmp_path / "file").touch()
    log = LogFile(tmp_path / "file" / "server.log", most_bytes=20_000, keep=1)

    async def scene() -> None:
        process = await begin(log, "yes | head -c 200000; echo end")
        await process.ended()
        await process.stop()
        assert process.code == 0
        assert process.tail().endswith("end\n")

    asyncio.run(scene())
    log.close()
    assert log.problem is not None


def test_where_it_listens_is_seen(log: LogFile) -> None:
    """The ports of all its processes, as addresses."""
    listen = (
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "print(s.getsockname()[1], flush=True); time.sleep(300)"
    )

    async def scene() -> None:
        process = await begin(log, f'{sys.executable} -c "{listen}"; exit')
        await until(lambda: process.tail().strip())
        assert process.listening_urls() == [f"http://127.0.0.1:{process.tail().strip()}"]
        await process.stop()
        assert process.listening_urls() == []

    asyncio.run(scene())


@on_both_loops
def test_a_warden_that_was_killed(log: LogFile, run: Run) -> None:
    """The command ends with it, and nobody waits for a report."""

    async def scene() -> None:
        process = await begin(log, "echo on; exec sleep 300")
        await until(lambda: process.pid is not None and process.tail())
        assert process.pid is not None
        command = psutil.Process(process.pid)
        os.kill(command.ppid(), signal.SIGKILL)
        await process.ended()
        assert process.code is None
        await process.stop()
        await until(lambda: not command.is_running() or command.status() == psutil.STATUS_ZOMBIE)

    run(scene())
