"""The switches, the live view and the log as people use them: real processes, exit codes, a real terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateways import RunningGateway, free_port, until
from penstock.cli.live import snapshots
from penstock.client import Client, NoGateway

DEAD = "http://127.0.0.1:9"


class Cli:
    """The command line of the user whose gateway runs."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.gateway.env, **more},
        )  # fmt: skip

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """What a command says to machines."""
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RunningGateway]]:
    """Starts gateways with one folder, one after another."""
    started: list[RunningGateway] = []

    def start(*flags: str, **settings: Any) -> RunningGateway:
        settings.setdefault("upstreams", [{"name": "box", "url": DEAD}])
        started.append(RunningGateway(tmp_path, settings, flags=flags))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


def test_what_is_switched_survives_a_restart(serve: Callable[..., RunningGateway]) -> None:
    """Pause, bypass and added upstreams; not a drain; and the settings file is what it was."""
    port = ("--port", str(free_port()))
    gateway = serve(*port)
    penstock = Cli(gateway)
    settings = gateway.settings_path.read_bytes()
    assert penstock.json("pause", "box", "--refuse") == {"upstreams": ["box"], "kept": True}
    assert penstock.json("bypass", "on") == {"upstreams": ["box"], "kept": True}
    added = penstock.json(
        "upstream", "add", "127.0.0.1:8", "--name", "more", "--kind", "vllm", code=1
    )
    assert (added["upstream"]["url"], added["kept"]) == ("http://127.0.0.1:8", True)
    assert penstock.json("drain", "more")["drained"] is True
    assert penstock("drain", "more", "--hold").returncode == 0
    gateway.stop()
    gateway = serve(*port)
    status = gateway.status()
    assert [(u["name"], u["paused"], u["drained"], u["bypass"]) for u in status["upstreams"]] == [
        ("box", "refuse", None, True),
        ("more", None, None, True),
    ]
    assert status["switched"] == {"paused": "some", "drained": "none", "bypass": "all"}
    assert status["started_by"] == "test"
    assert gateway.settings_path.read_bytes() == settings
    told = penstock("status").stdout
    assert "box: paused, new requests are refused; bypassed" in told
    doctor = penstock("doctor").stdout
    assert "is paused: new requests are refused" in doctor
    assert "started by test" in doctor
    assert penstock.json("bypass", "off")["kept"] is True
    assert penstock("resume", "box").returncode == 0
    listed = penstock.json("upstream", "list")
    assert [(u["name"], u["found_by"]) for u in listed] == [
        ("box", "configured"),
        ("more", "state"),
    ]
    assert penstock.json("upstream", "forget", "more") == {"forgotten": "more", "kept": True}
    gateway.stop()
    status = serve(*port).status()
    assert status["switched"] == {"paused": "none", "drained": "none", "bypass": "none"}
    assert [u["name"] for u in status["upstreams"]] == ["box"]


def test_a_broken_state_keeps_nobody_from_starting(
    serve: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """It is set aside, and the status says so until something is switched."""
    folder = tmp_path / "xdg_state_home" / "penstock"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{")
    gateway = serve("--port", str(free_port()))
    assert "set aside as state.json.broken" in gateway.status()["notices"]["state"]
    assert (folder / "state.json.broken").read_text() == "{"
    assert Cli(gateway)("pause").returncode == 0
    assert gateway.status()["notices"] == {}


def test_an_added_upstream_is_reason_enough_to_start(
    serve: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """Without any configured one, and with nothing to be found."""
    port = ("--port", str(free_port()))
    gateway = serve(*port)
    Cli(gateway)("upstream", "add", "http://127.0.0.1:8", "--name", "mine")
    gateway.stop()
    gateway = serve(*port, upstreams=[], discovery={"enabled": False})
    assert [u["name"] for u in gateway.status()["upstreams"]] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("pause", "x"), 4, "there are: box"),
        (("drain", "x"), 4, "there are: box"),
        (("bypass", "maybe"), 2, "maybe"),
        (("bypass",), 2, "Missing argument"),
        (("unload", "m", "box"), 1, "no way to unload"),
        (("upstream", "add", "ftp://x"), 2, "expected http"),
        (("upstream", "forget", "box"), 1, "settings file"),
        (("upstream", "forget", "x"), 4, "there are: box"),
        (("logs", "--server", "box"), 4, "does not run the server"),
        (("logs", "--server", "x"), 4, "there are: box"),
        (("logs",), 4, "writes no file"),
        (("drain", "--timeout", "-1"), 2, "seconds"),
        (("pause", "--port", "1"), 4, "runs on port 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_sentence(
    shared: RunningGateway, arguments: tuple[str, ...], code: int, told: str
) -> None:
    """With the exit code that scripts can tell."""
    done = Cli(shared)(*arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway for rows that change nothing."""
    upstream = {"name": "box", "url": DEAD, "kind": "vllm"}
    with RunningGateway(tmp_path_factory.mktemp("shared"), {"upstreams": [upstream]}) as gateway:
        yield gateway


def test_resume_tells_of_a_server_that_is_not_back(serve: Callable[..., RunningGateway]) -> None:
    """1, and what is held goes on waiting for it."""
    penstock = Cli(serve())
    assert penstock("drain", "--hold").returncode == 0
    done = penstock("resume", "--wait", "0.1")
    assert done.returncode == 1
    assert "not back yet" in done.stderr
    assert penstock("pause").stderr.count("lasts until the gateway ends") == 1


def test_without_a_gateway_each_says_how_to_start_one(serve: Callable[..., RunningGateway]) -> None:
    """As the user calls this program: from a checkout there is no `penstock`."""
    gateway = serve()
    gateway.stop()
    penstock = Cli(gateway)
    for command in (("pause",), ("status",), ("stop",), ("status", "--watch"), ("upstream", "list"), ("config", "--running")):  # fmt: skip
        done = penstock(*command)
        assert done.returncode == 4
        assert "`python3 shared serve` starts one" in done.stderr


def test_the_log_is_there_also_after_the_end(serve: Callable[..., RunningGateway]) -> None:
    """And is followed into the next gateway; a line of JSON where the settings say so."""
    port = free_port()
    gateway = serve("--port", str(port))
    penstock = Cli(gateway)
    assert gateway.status()["log_file"].endswith(f"gateway-{port}.log")
    following = penstock.start("logs", "--follow", "--port", str(port))
    lines: list[str] = []
    assert following.stdout is not None
    stdout = following.stdout
    reader = threading.Thread(target=lambda: lines.extend(stdout), daemon=True)
    reader.start()
    until(lambda: any("listening on" in line for line in lines), 20.0, "what is there already")
    gateway.chat("a secret")
    until(lambda: any("status=" in line for line in lines), 20.0, "the request's line")
    gateway.stop()
    until(lambda: any("stopped" in line for line in lines), 20.0, "its end")
    last = penstock("logs", "-n", "1").stdout
    assert last.rstrip().endswith("stopped")
    gateway = serve("--port", str(port), log={"format": "json"})
    until(lambda: lines[-1].startswith("{"), 20.0, "the next gateway")
    assert json.loads(lines[-1])["logger"] == "penstock.gateway"
    assert "a secret" not in "".join(lines)
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 130
    reader.join(10)
    stdout.close()
    assert following.stderr is not None
    following.stderr.close()


def test_a_log_file_that_cannot_be_written_is_told(
    serve: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """In the status; requests are answered all the same."""
    (tmp_path / "file").write_text("")
    gateway = serve(log={"file": str(tmp_path / "file" / "x.log")})
    until(lambda: "log" in gateway.status()["notices"], 10.0, "the notice")
    assert gateway.http.get("/v1/models").status_code == 200
    gateway.write_settings(
        {"upstreams": [{"name": "box", "url": DEAD}], "log": {"file": str(tmp_path / "y.log")}}
    )
    until(lambda: (tmp_path / "y.log").exists(), 10.0, "the other file")
    assert gateway.status()["notices"] == {}


def test_explain_asks_the_running_gateway(shared: RunningGateway, tmp_path: Path) -> None:
    """Which server it would be sent to; here one that is away."""
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}))
    done = Cli(shared)("explain", str(request))
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr


def test_watching_without_a_terminal(serve: Callable[..., RunningGateway]) -> None:
    """Snapshots as plain text when something changes, or as lines of JSON."""
    penstock = Cli(serve())
    with penstock.start("status", "--watch", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["running"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    with penstock.start("status", "--watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Penstock ")
        penstock("pause")
        text = ""
        while "box: " not in text and "paused new requests" not in text:
            text += process.stdout.readline()
        assert "\x1b" not in text
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == ""


@pytest.mark.skipif(os.name == "nt", reason="platform: no pseudo-terminals")
def test_watching_on_a_terminal_over_a_restart(serve: Callable[..., RunningGateway]) -> None:
    """It is drawn at the terminal's width, waits for a gateway that is gone, and Ctrl-C leaves the terminal clean."""
    import fcntl
    import pty
    import struct
    import termios

    port = ("--port", str(free_port()))
    gateway = serve(*port)
    penstock = Cli(gateway)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**gateway.env, "TERM": "xterm"}
    process = penstock.start(
        "status",
        "--watch",
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        start_new_session=True,
    )
    os.close(slave)
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                seen.extend(data)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until(lambda: b"no request is running" in seen, 30.0, "the first picture")
    assert b"\x1b[?1049h" in seen
    gateway.stop()
    until(lambda: b"is gone; waiting for it" in seen, 20.0, "that it is gone")
    seen.clear()
    serve(*port)
    until(lambda: b"no request is running" in seen and b"up " in seen, 30.0, "the next gateway")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    reader.join(10)
    os.close(master)
    assert b"\x1b[?1049l" in seen
    assert b"\x1b[?25h" in seen
    assert b"Traceback" not in seen


def test_snapshots_come_as_often_as_asked(
    shared: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the event stream, also while nothing changes; the last one stands for a gateway that is away."""
    monkeypatch.setattr(
        Client, "find", classmethod(lambda cls, port: cls(shared.url, token=shared.token))
    )
    coming = snapshots(None, 0.1)
    times = []
    for _ in range(3):
        status, gone = next(coming)
        times.append(status["uptime_s"])
        assert gone is None
    assert times == sorted(times)
    coming.close()
    calls: list[float] = []

    class Away(Client):
        def events(self, every_s: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
            yield "snapshot", {"schema": 1}

    found = [Away(shared.url)]
    monkeypatch.setattr(Client, "find", classmethod(lambda cls, port: _next(found)))
    coming = snapshots(None, 0.1, pause=calls.append)
    assert [next(coming) for _ in range(3)] == [
        ({"schema": 1}, None),
        ({"schema": 1}, "is gone; waiting for it ..."),
        ({"schema": 1}, "is gone; waiting for it ..."),
    ]
    assert len(calls) == 1


def _next(found: list[Any]) -> Any:
    if not found:
        raise NoGateway("none")
    return found.pop()


def test_a_drain_can_be_interrupted(serve: Callable[..., RunningGateway]) -> None:
    """130; the drain stays in force, and how to end it is said."""
    import socketserver

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                if header.lower().startswith(b"content-length"):
                    length = int(header.split(b":")[1])
            self.rfile.read(length)
            if line.startswith(b"POST"):
                self.rfile.read(1)  # until the gateway hangs up
                return
            body = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
            self.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n"
                             b"content-length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        gateway = serve(
            upstreams=[{"name": "box", "url": url, "kind": "generic"}], timeouts={"drain_s": 0}
        )
        penstock = Cli(gateway)
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        asking = threading.Thread(target=lambda: _ask(gateway.url, body), daemon=True)
        asking.start()
        until(lambda: gateway.upstream()["concurrency"]["in_flight"] == 1, 20.0, "it runs")
        late = penstock("drain", "--timeout", "0.2")
        assert late.returncode == 1
        assert "1 running" in late.stderr
        assert "still run after 0 s (box: 1)" in late.stderr
        with penstock.start("drain", "box", "--timeout", "60") as process:
            assert process.stderr is not None
            assert "1 running" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert "`python3 shared resume` ends it" in process.stderr.read()
        assert gateway.upstream()["drained"] == "refuse"
        server.shutdown()


def _ask(url: str, body: dict[str, Any]) -> None:
    import httpx

    try:
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30.0, trust_env=False)
    except httpx.HTTPError:
        time.sleep(0)
