"""Servers that a real gateway runs: they die, hang, cannot start; clients see a pause, or a clear reason."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import parts
from gateways import RunningGateway, free_port, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="sends signals")]

QUICK = {"first_delay_s": 0.1, "stop_s": 3.0}


def llama(model: Path, port: int, *more: str) -> tuple[str, ...]:
    """The command of a user who has our llama.cpp."""
    return (
        sys.executable, "-m", "penstock", "llama-server", str(model), "--port", str(port), "--ctx-size", "4096",
        "--threads", "1", *more,
    )  # fmt: skip


def supervised(gateway: RunningGateway) -> dict[str, Any]:
    """The part of the status."""
    return dict(gateway.upstream()["supervised"])


def running(gateway: RunningGateway) -> int:
    """The process id of the server, once it is ready."""
    until(lambda: supervised(gateway)["state"] == "running", 30.0, "the server is ready")
    return int(supervised(gateway)["pid"])


def acts(gateway: RunningGateway) -> list[str]:
    """What was done, oldest first."""
    return [act["act"] for act in gateway.status()["acts"] if act["act"].startswith("server")]


def gone(pids: list[int]) -> bool:
    """Whether none of them runs any more."""
    return not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(gateway: RunningGateway) -> list[int]:
    """All processes under the gateway."""
    return [p.pid for p in psutil.Process(gateway.process.pid).children(recursive=True)]


class Stream(threading.Thread):
    """A client that reads one stream to its end."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self._url, self._number = url, number
        self.text, self.status, self.broken = "", 0, ""

    def run(self) -> None:
        """See `threading.Thread`."""
        body = {
            "model": "any", "stream": True, "max_tokens": 60,
            "messages": [{"role": "user", "content": f"Tell me story number {self._number}."}],
        }  # fmt: skip
        try:
            with (
                httpx.Client(timeout=90.0, trust_env=False) as http,
                http.stream("POST", f"{self._url}/v1/chat/completions", json=body) as answer,
            ):
                self.status = answer.status_code
                for piece in answer.iter_text():
                    self.text += piece
        except httpx.HTTPError as exc:
            self.broken = repr(exc)

    @property
    def is_whole(self) -> bool:
        """It ended as it should."""
        return self.text.rstrip().endswith("data: [DONE]") and '"error"' not in self.text


def test_a_server_that_is_killed_in_the_middle_of_ten_streams(tmp_path: Path) -> None:
    """Streams that it was writing end whole or with an error event, all others are answered after the restart."""
    command = llama(parts.model("slow"), free_port(), "--parallel", "2")
    with RunningGateway(
        tmp_path, {"supervise": QUICK}, flags=("--supervise", "--", *command)
    ) as gateway:
        pid = running(gateway)
        streams = [Stream(gateway.url, number) for number in range(10)]
        for stream in streams:
            stream.start()
        until(lambda: sum("delta" in s.text for s in streams) >= 2, 30.0, "two streams write")
        begun = [stream for stream in streams if "delta" in stream.text and not stream.is_whole]
        os.kill(pid, signal.SIGKILL)
        for stream in streams:
            stream.join()
        for stream in streams:
            assert (stream.status, stream.broken) == (200, "")
            if not stream.is_whole:
                assert '"broken_stream"' in stream.text
                assert stream in begun
        assert sum(stream.is_whole for stream in streams) >= 8
        shown = supervised(gateway)
        assert (shown["state"], shown["restarts"]) == ("running", 1)
        assert "SIGKILL: probably out of memory" in shown["why"]
        assert acts(gateway) == [
            "server_started", "server_ready", "server_died", "server_started", "server_ready",
        ]  # fmt: skip
        assert gateway.upstream()["breaker"]["state"] == "closed"
        assert gateway.upstream()["held_because"] == []
        metrics = gateway.http.get("/metrics").text
        assert 'penstock_server_restarts_total{upstream="supervised"} 1.0' in metrics


def test_a_server_that_loads_is_waited_for(tmp_path: Path) -> None:
    """A request that comes before the server listens is answered once it does."""
    port = free_port()
    wait = "while ! test -e go; do sleep 0.05; done; exec "
    command = ("sh", "-c", f'cd {tmp_path}; {wait} "$@"', "sh", *llama(parts.model(), port))
    flags = ("--supervise", "--upstream", f"http://127.0.0.1:{port}", "--", *command)
    with RunningGateway(tmp_path, {"supervise": QUICK}, flags=flags) as gateway:
        stream = Stream(gateway.url, 1)
        stream.start()
        until(lambda: gateway.upstream()["concurrency"]["held"] == 1, what="it is held")
        assert gateway.upstream()["state"] == "loading"
        (tmp_path / "go").touch()
        stream.join()
        assert stream.is_whole


def test_a_command_that_ends_at_once_is_given_up(tmp_path: Path) -> None:
    """The gateway stays up and tells each request why, until somebody says that it was mended."""
    port, mended = free_port(), tmp_path / "mended"
    script = f'test -e {mended} && exec "$@"; echo no such flag: --fast; exit 3'
    command = ("sh", "-c", script, "sh", *llama(parts.model(), port))
    flags = ("--supervise", "--upstream", f"127.0.0.1:{port}", "--", *command)
    settings = {"supervise": {**QUICK, "give_up_after": 3}}
    with RunningGateway(tmp_path, settings, flags=flags) as gateway:
        until(lambda: supervised(gateway)["state"] == "given_up", what="it is given up")
        answer = gateway.chat()
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["code"] == "upstream_unreachable"
        assert "died 3 times: it ended with code 3" in error["message"]
        assert "no such flag: --fast" in error["message"]
        assert "`penstock resume` starts it again" in error["hint"]
        assert supervised(gateway)["restarts"] == 2
        assert acts(gateway) == [*["server_started", "server_died"] * 3, "server_given_up"]
        assert "no such flag" in Path(supervised(gateway)["log_file"]).read_text()
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: supervised(gateway)["restarts"] == 5, what="it is tried three times more")
        until(lambda: supervised(gateway)["state"] == "given_up", what="it is given up again")
        mended.touch()
        assert gateway.admin("POST", "/penstock/resume", json={}).json() == {
            "resumed": ["supervised"],
            "away": [],
        }
        running(gateway)
        assert gateway.chat(max_tokens=4).status_code == 200


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    """The reason names it."""
    flags = ("--supervise", "--", "no-such-llama-server", "--port", str(free_port()))
    settings = {"supervise": {**QUICK, "give_up_after": 1}}
    with RunningGateway(tmp_path, settings, flags=flags) as gateway:
        until(lambda: supervised(gateway)["state"] == "given_up", what="it is given up")
        told = gateway.chat().json()["error"]["message"]
        assert "no-such-llama-server cannot be started: No such file or directory" in told


def test_an_unknown_command_is_found_by_its_port(tmp_path: Path) -> None:
    """Where neither flag nor name tells the address, the ports of its processes do."""
    port = free_port()
    command = ("sh", "-c", " ".join(llama(parts.model(), port)) + "; exit $?")
    with RunningGateway(
        tmp_path, {"supervise": QUICK}, flags=("--supervise", "--", *command)
    ) as gateway:
        assert gateway.upstream()["url"] == f"http://127.0.0.1:{port}"
        assert gateway.chat(max_tokens=4).status_code == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_nothing_stays_behind(tmp_path: Path, how: signal.Signals) -> None:
    """However the gateway ends, the server ends with it, and what it started, also in a session of its own."""
    port = free_port()
    script = 'sleep 300 & setsid sleep 301 & "$@"; exit $?'
    command = ("sh", "-c", script, "sh", *llama(parts.model(), port))
    flags = ("--supervise", "--upstream", f"http://127.0.0.1:{port}", "--", *command)
    with RunningGateway(tmp_path, {"supervise": QUICK}, flags=flags) as gateway:
        running(gateway)
        pids = descendants(gateway)
        assert len(pids) >= 5  # the warden, the shell, two that sleep, the server
        gateway.process.send_signal(how)
        code = gateway.process.wait(30)
        if how is signal.SIGTERM:
            assert code == 0
            assert gone(pids)
        until(lambda: gone(pids), what="all have ended")


def test_a_server_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    """A stop has a limit, and the gateway ends in time."""
    port = free_port()
    script = 'trap "" TERM; "$@" & while true; do sleep 0.2; done'
    command = ("sh", "-c", script, "sh", *llama(parts.model(), port))
    flags = ("--supervise", "--upstream", f"http://127.0.0.1:{port}", "--", *command)
    settings = {"supervise": {**QUICK, "stop_s": 0.3}}
    with RunningGateway(tmp_path, settings, flags=flags) as gateway:
        running(gateway)
        pids = descendants(gateway)
        assert gateway.stop() == 0
        assert gone(pids)


def test_the_warden_is_killed(tmp_path: Path) -> None:
    """The server does not outlive its warden, and is started again under another one."""
    command = llama(parts.model(), free_port())
    with RunningGateway(
        tmp_path, {"supervise": QUICK}, flags=("--supervise", "--", *command)
    ) as gateway:
        pid = running(gateway)
        parent = psutil.Process(pid).parent()
        assert parent is not None
        parent.kill()
        until(lambda: supervised(gateway)["restarts"] == 1, what="it is started again")
        assert running(gateway) != pid
        assert gone([pid])
        assert gateway.chat(max_tokens=4).status_code == 200


def test_what_the_server_writes_stays_small(tmp_path: Path) -> None:
    """Its log file is set aside at its size, and only so many are kept."""
    port = free_port()
    script = 'i=0; while [ $i -lt 3000 ]; do echo "line $i of many"; i=$((i+1)); done; exec "$@"'
    command = ("sh", "-c", script, "sh", *llama(parts.model(), port))
    flags = ("--supervise", "--upstream", f"http://127.0.0.1:{port}", "--", *command)
    settings = {"supervise": {**QUICK, "log_bytes": 8192, "log_files": 1}}
    with RunningGateway(tmp_path, settings, flags=flags) as gateway:
        for restarts in range(3):
            os.kill(running(gateway), signal.SIGKILL)
            until(lambda n=restarts: supervised(gateway)["restarts"] == n + 1, what="a restart")
        running(gateway)
        log = Path(supervised(gateway)["log_file"])
        files = sorted(path.name for path in log.parent.glob(f"{log.name}*"))
        assert files == [log.name, f"{log.name}.1"]
        # A batch is written whole: at most what comes at once more than the bound.
        assert log.stat().st_size < 400_000


def test_the_embedded_server_is_restarted_on_its_port(tmp_path: Path) -> None:
    """Killed, it comes back under the same address and with the same options."""
    flags = ("--embedded", str(parts.model()), "--ctx-size", "2048", "--parallel", "1")
    with RunningGateway(tmp_path, {"supervise": QUICK}, flags=flags) as gateway:
        before = gateway.upstream()
        assert before["supervised"]["state"] == "running"
        assert gateway.chat(max_tokens=4).status_code == 200
        os.kill(running(gateway), signal.SIGKILL)
        assert gateway.chat(max_tokens=4).status_code == 200
        after = gateway.upstream()
        assert after["url"] == before["url"]
        assert after["supervised"]["restarts"] == 1
        assert [m["context_window"] for m in after["models"]] == [2048]
        pids = descendants(gateway)
        gateway.stop()
        assert gone(pids)


def test_an_embedded_server_that_cannot_start_ends_the_gateway(tmp_path: Path) -> None:
    """There is nothing to serve then, and the reason is told at once."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF, but not really")
    with pytest.raises(AssertionError, match=r"ended with 1") as failed:
        RunningGateway(tmp_path / "g", {"supervise": QUICK}, flags=("--embedded", str(bad)))
    assert "The supervised server died once: it ended with code 1." in str(failed.value)
    assert "Traceback" not in str(failed.value)
