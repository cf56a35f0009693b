"""What a gateway needs in a pod, on a real process: keys and token by mount, the orderly end, its share of the slots."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateways import RunningGateway
from penstock.resources import share_of


def _mount(folder: Path, edition: str, files: dict[str, str]) -> None:
    """Write *files* as the kubelet does: a new folder, then the swap of `..data`."""
    folder.mkdir(exist_ok=True)
    (folder / edition).mkdir()
    for name, text in files.items():
        (folder / edition / name).write_text(text)
    (folder / "..data_tmp").symlink_to(edition)
    os.replace(folder / "..data_tmp", folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if not link.name.startswith(".") and not link.exists():
            link.unlink()


def _until(what: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def test_keys_and_token_follow_their_mounts_and_the_end_is_orderly(tmp_path: Path) -> None:
    """Swapped mounts take effect without a restart; after SIGTERM clients are served a while."""
    keys, token = tmp_path / "keys", tmp_path / "admin"
    _mount(keys, "..1", {"alice": "first\n", "bob": "second\n"})
    _mount(token, "..1", {"token": "admin-one"})
    gateway = RunningGateway(
        tmp_path / "gateway",
        {
            "listen": {
                "client_keys_dir": str(keys),
                "admin_token_file": str(token / "token"),
                "accept_after_stop_s": 1.0,
            },
            "upstreams": [{"name": "server", "url": "http://127.0.0.1:9", "models": ["m"]}],
        },
        env={"PENSTOCK_PORT_80_TCP": "tcp://10.0.0.1:80", "PENSTOCK_SERVICE_HOST": "10.0.0.1"},
    )
    try:
        assert gateway.token == "admin-one"

        def status(key: str) -> int:
            return gateway.http.get(
                "/v1/models", headers={"authorization": f"Bearer {key}"}
            ).status_code

        def admin(value: str) -> int:
            return gateway.http.post(
                "/penstock/reload", headers={"penstock-admin-token": value}
            ).status_code

        assert (status("first"), status("second"), status("third")) == (200, 200, 401)
        _mount(keys, "..2", {"alice": "third"})
        _until(lambda: status("third") == 200)
        assert (status("first"), status("second")) == (401, 401)
        _mount(token, "..2", {"token": "admin-two"})
        _until(lambda: admin("admin-two") == 200)
        assert admin("admin-one") in (401, 403)

        gateway.process.send_signal(signal.SIGTERM)
        _until(lambda: gateway.http.get("/readyz").status_code == 503, 0.9)
        with httpx.Client(base_url=gateway.url, trust_env=False) as newcomer:
            answer = newcomer.get("/v1/models", headers={"authorization": "Bearer third"})
        assert answer.status_code == 200  # a client that has not heard of it yet
        assert gateway.process.wait(10) == 0
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("slots", "gateways", "share"), [(4, 1, 4), (4, 2, 2), (5, 2, 2), (1, 3, 1), (2, 3, 1)]
)
def test_the_share_of_the_slots(slots: int, gateways: int, share: int) -> None:
    """Rounded down, never none."""
    assert share_of(slots, gateways) == share
