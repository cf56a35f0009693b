"""
Starts a real `penstock serve` for a test: a process of its own with folders of its own, on a free port.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

READY_WITHIN_S = 30.0


class RunningGateway:
    """
    A gateway process.

    Attributes:
        url: where it listens; `token` is its admin token.
        folder: holds its settings file, state, cache and log.

    Args:
        shell: what a shell does in place of starting it; `exec "$@"` in it starts it.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any] | None = None,
        *,
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        shell: str = "",
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.settings_path = folder / "penstock.yaml"
        # The server is not tried out in the middle of a test that does not expect it.
        self.write_settings({"resume": {"probe_after_s": 3600.0}, **(settings or {})})
        self.log_path = folder / "gateway.log"
        self._log = self.log_path.open("wb")
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PENSTOCK_", "LOCAL_MODEL_", "OLLAMA_", "OPENAI_"))
            and not name.lower().endswith("_proxy")
        }
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            place = folder / name.lower()
            place.mkdir(mode=0o700, exist_ok=True)
            clean[name] = str(place)
        self.env = {**clean, **(env or {})}
        within = ["/bin/sh", "-c", shell, "sh"] if shell else []
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "penstock", "serve", "--config", str(self.settings_path),
             "--port", "0", "--started-by", "test", *flags],
            stdout=self._log, stderr=subprocess.STDOUT, env=self.env,
        )  # fmt: skip
        self.url = ""
        self.token = ""
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        self.http = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings file, as an editor would."""
        partial = self.settings_path.with_suffix(".part")
        partial.write_text(yaml.safe_dump({"version": 1, **settings}))
        partial.replace(self.settings_path)

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        runtime = self.folder / "xdg_runtime_dir" / "penstock"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the gateway ended with {self.process.returncode}:\n{self.log()}"
                )
            for path in runtime.glob("*.json") if runtime.is_dir() else ():
                entry = json.loads(path.read_text())
                self.url, self.token = entry["url"], entry["token"]
                try:
                    if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
            time.sleep(0.02)
        raise AssertionError(f"the gateway was not ready in time:\n{self.log()}")

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.rsplit(":", 1)[1])

    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace")

    def chat(self, text: str = "hello", **fields: Any) -> httpx.Response:
        """One plain or streaming (collected here) chat completion."""
        body = {"model": "any", "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def status(self) -> dict[str, Any]:
        """`/penstock/status`."""
        return dict(self.http.get("/penstock/status").json())

    def upstream(self, number: int = 0) -> dict[str, Any]:
        """One upstream of the status."""
        return dict(self.status()["upstreams"][number])

    def request(self, request_id: str) -> dict[str, Any]:
        """`/penstock/requests/{id}`."""
        return dict(self.http.get(f"/penstock/requests/{request_id}").json())

    def admin(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request with the admin token."""
        return self.http.request(method, path, headers={"penstock-admin-token": self.token}, **more)

    def stop(self) -> int:
        """End it, and wait until it has ended. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(45)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        if hasattr(self, "http"):
            self.http.close()
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Any, within_s: float = 10.0, what: str = "the condition") -> Any:
    """Poll *condition* until it is true; its value."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s:g} s"
        time.sleep(0.02)
