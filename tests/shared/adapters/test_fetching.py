"""Fetching weights from a real HTTP server that drops, lies and changes its mind."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.adapters.fetching import Access, Fetched, FetchFailed, address_of, fetch, verify
from penstock.cli.main import run

ONE, TWO = bytes(range(256)) * 4096, bytes(reversed(range(256))) * 4096


@dataclass
class Shop:
    """What the server serves, and the faults that it has."""

    body: bytes = ONE
    etag: str = '"one"'
    cut_after: list[int] = field(default_factory=list)
    status: int = 0
    linked: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def shop() -> Iterator[Shop]:
    kept = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("range", "")
            kept.seen.append((asked, self.headers.get("authorization", "")))
            if kept.status:
                self.send_response(kept.status)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            start = 0
            if asked and self.headers.get("if-range") == kept.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            size = len(kept.body)
            if start >= size:
                self.send_response(416)
                self.send_header("content-range", f"bytes */{size}")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("content-range", f"bytes {start}-{size - 1}/{size}")
            if kept.linked:
                self.send_header("x-linked-etag", f'"{kept.linked}"')
            self.send_header("etag", kept.etag)
            self.send_header("content-length", str(size - start))
            self.end_headers()
            most = kept.cut_after.pop(0) if kept.cut_after else size
            self.wfile.write(kept.body[start : start + most])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def _get(shop: Shop, to: Path, sha256: str | None = None, tries: int = 3) -> Fetched:
    return fetch(f"{shop.url}/m.gguf", to, access=Access(), sha256=sha256, tries=tries, wait_s=0.01)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_broken_download_goes_on_where_it_broke_off(shop: Shop, tmp_path: Path) -> None:
    """Each further attempt asks for what is missing only."""
    shop.cut_after = [300_000, 200_000]
    found = _get(shop, tmp_path / "m.gguf")
    assert found.sha256 == _sha(ONE)
    assert found.path.read_bytes() == ONE
    assert [asked for asked, _ in shop.seen] == ["", "bytes=300000-", "bytes=500000-"]
    assert not (tmp_path / "m.gguf.part").exists()


def test_parts_of_two_editions_never_mix(shop: Shop, tmp_path: Path) -> None:
    """A file that changed in between is fetched anew, whole."""
    shop.cut_after = [300_000]
    with pytest.raises(FetchFailed) as caught:
        _get(shop, tmp_path / "m.gguf", tries=1)
    assert caught.value.reason == "Unreachable"
    shop.body, shop.etag = TWO, '"two"'
    assert _get(shop, tmp_path / "m.gguf").path.read_bytes() == TWO


def test_a_good_copy_is_not_touched_by_a_bad_one(shop: Shop, tmp_path: Path) -> None:
    """What has the wrong SHA-256 is thrown away before it replaces anything."""
    to = tmp_path / "m.gguf"
    to.write_bytes(b"good")
    with pytest.raises(FetchFailed) as caught:
        _get(shop, to, sha256="0" * 64)
    assert caught.value.reason == "Mismatch"
    assert to.read_bytes() == b"good"
    assert not (tmp_path / "m.gguf.part").exists()


def test_what_is_there_is_not_fetched_again(shop: Shop, tmp_path: Path) -> None:
    """A second call asks the server nothing."""
    _get(shop, tmp_path / "m.gguf")
    _get(shop, tmp_path / "m.gguf", sha256=_sha(ONE))
    assert len(shop.seen) == 1


def test_two_fetchers_on_one_volume_fetch_once(shop: Shop, tmp_path: Path) -> None:
    """The second waits for the first and finds the file."""
    both = [threading.Thread(target=_get, args=(shop, tmp_path / "m.gguf")) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(shop.seen) == 1
    assert (tmp_path / "m.gguf").read_bytes() == ONE


def test_the_hubs_own_word_is_checked(shop: Shop, tmp_path: Path) -> None:
    """The SHA-256 that the Hub tells counts when none was given."""
    shop.linked = "1" * 64
    with pytest.raises(FetchFailed, match="SHA-256"):
        _get(shop, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("status", "reason", "asked"),
    [(401, "Unauthorized", 1), (404, "NotFound", 1), (503, "ServerError", 3)],
)
def test_refusals_have_reasons(
    shop: Shop, tmp_path: Path, status: int, reason: str, asked: int
) -> None:
    """Only what may pass is tried again."""
    shop.status = status
    with pytest.raises(FetchFailed) as caught:
        _get(shop, tmp_path / "m.gguf")
    assert caught.value.reason == reason
    assert len(shop.seen) == asked


@pytest.mark.parametrize(
    ("no_proxy", "told"),
    [("*", "the name hub.example could not be resolved"), ("", "the name of the proxy could not be resolved")],
)  # fmt: skip
def test_each_attempt_that_fails_is_told_in_plain_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_proxy: str,
    told: str,
) -> None:
    """Whoever reads the log while it tries learns why, by the name that nobody knows and not by an error's number."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("penstock.adapters.fetching.time.sleep", lambda _: None)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert run(["fetch", "http://hub.example/m", str(tmp_path / "m"), "--tries", "3"]) == 1
    why = f"http://hub.example/m cannot be reached: {told}."
    again = [f"{why} It is tried again in {wait_s} s." for wait_s in (1, 2)]
    assert capsys.readouterr().err.splitlines() == [*again, f"penstock: {why}"]


def test_a_refused_connection_has_no_number(tmp_path: Path) -> None:
    """The system's words are enough."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}/m"
        with pytest.raises(FetchFailed) as caught:
            fetch(url, tmp_path / "m", access=Access(), tries=1)
    assert str(caught.value) == f"{url} cannot be reached: connection refused."


def test_a_full_disk_is_told_before_it_begins(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written when the file would not fit."""

    class Usage:
        free = 1000

    monkeypatch.setattr("penstock.adapters.fetching.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(FetchFailed) as caught:
        _get(shop, tmp_path / "m.gguf")
    assert caught.value.reason == "DiskFull"
    assert not (tmp_path / "m.gguf.part").exists()


def test_addresses() -> None:
    """A mirror takes the place of the Hub, and what cannot be meant is refused."""
    mirror = "https://mirror.example/"
    assert address_of("hf://a/b/c/d.gguf@v1", mirror) == (
        "https://mirror.example/a/b/resolve/v1/c/d.gguf"
    )
    for bad in ("ftp://x/y", "hf://a/b", "hf://a/../c/d"):
        with pytest.raises(FetchFailed):
            address_of(bad)


def test_the_command_says_how_it_ended(shop: Shop, tmp_path: Path) -> None:
    """Exit code, termination message, progress file and credential."""
    told, token, status = tmp_path / "end", tmp_path / "token", tmp_path / "status.json"
    token.write_text("secret\n")
    to = tmp_path / "volume" / "m.gguf"
    flags = ["--termination-message", str(told), "--token-file", str(token)]
    assert run(["fetch", f"{shop.url}/m", str(to), *flags, "--status-file", str(status)]) == 0
    end = json.loads(told.read_text())
    assert (end["reason"], end["sha256"], end["size"]) == ("Fetched", _sha(ONE), len(ONE))
    assert json.loads(status.read_text()) == {"bytes": len(ONE), "size": len(ONE)}
    assert shop.seen == [("", "Bearer secret")]
    assert run(["fetch", "pvc://claim/m.gguf", str(to), *flags]) == 0
    assert run(["fetch", "pvc://claim/n.gguf", str(to) + "x", *flags]) == 1
    assert json.loads(told.read_text())["reason"] == "Missing"
    assert verify(to, None).sha256 == _sha(ONE)
