"""Getting to an upstream: names, TLS, proxies, Unix sockets, and the ways in which that fails."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import sys
from pathlib import Path

import pytest

from loops import Run, on_both_loops, until
from penstock.adapters.transport import Origin, Transport, TransportError, UpstreamRequest
from penstock.adapters.transport.opening import interleave, proxy_credentials, refuse_itself
from rawserver import CLOSE, GONE, REQUEST, Peer, RawServer, Step, answer

TLS = Path(__file__).parents[2] / "fixtures" / "tls"
CA = str(TLS / "ca.pem")
GET = UpstreamRequest(b"GET", b"/x", [(b"Host", b"test")])
OK: list[Step] = [REQUEST, answer(b"ok")]


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def get(origin: Origin, connect_timeout_s: float = 5.0) -> bytes:
    """The body, with nothing left behind."""
    transport = Transport()
    try:
        response = await transport.send(
            origin, GET, connect_timeout_s=connect_timeout_s, head_timeout_s=5.0
        )
        return await response.read(1 << 20)
    finally:
        await transport.aclose()
        await until(lambda: transport.open_connections() == 0)


async def failure(origin: Origin, connect_timeout_s: float = 5.0) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await get(origin, connect_timeout_s)
    assert caught.value.phase == "connect"
    assert str(caught.value)
    return caught.value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@on_both_loops
def test_a_name_with_several_addresses_reaches_the_one_that_listens(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`localhost` may be ::1 first while the server listens on 127.0.0.1 only."""

    async def main() -> None:
        async with RawServer(OK) as server:
            loop = asyncio.get_running_loop()
            seen = []

            async def both(host: str, port: int, **_: object) -> list[object]:
                seen.append(host)
                v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
                v4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
                return [v6, v4] if socket.has_ipv6 else [v4]

            origin = Origin("http", "localhost", server.port)
            assert await get(origin) == b"ok"
            if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's methods cannot be replaced
                monkeypatch.setattr(loop, "getaddrinfo", both)
                assert await get(origin) == b"ok"
                assert seen == ["localhost"]

    run(main())


def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host whose first address swallows packets is reached through its second."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect
        cancelled = []

        async def some(sock: socket.socket, address: tuple[str, int]) -> None:
            if address[0] == "127.0.0.9":
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    cancelled.append(sock)
                    raise
            await connect(sock, address)

        async def both(host: str, port: int, **_: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in ("127.0.0.9", "127.0.0.1")
            ]

        monkeypatch.setattr(loop, "sock_connect", some)
        monkeypatch.setattr(loop, "getaddrinfo", both)
        async with RawServer(OK) as server:
            assert await get(Origin("http", "two.example", server.port)) == b"ok"
        assert [sock.fileno() for sock in cancelled] == [-1]

    asyncio.run(main())


def test_families_take_turns() -> None:
    """A host with many addresses of one broken family does not wait for all of them."""
    six = [(socket.AF_INET6, 1, 6, "", (f"::{i}", 1, 0, 0)) for i in range(3)]
    four = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 1))]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert interleave([]) == []


@on_both_loops
def test_nobody_listens(run: Run) -> None:
    """A refused connection is told as such, for addresses and for names."""

    async def main() -> None:
        port = free_port()
        for host in ("127.0.0.1", "localhost"):
            error = await failure(Origin("http", host, port))
            assert (error.kind, error.os_error) == ("refused", errno.ECONNREFUSED)

    run(main())


@on_both_loops
def test_a_name_that_does_not_exist(run: Run) -> None:
    """DNS failures are named, with the name that failed."""
    error = run(failure(Origin("http", "nowhere.invalid", 80)))
    assert error.kind == "dns"
    assert "nowhere.invalid" in str(error)


@pytest.mark.parametrize(
    "host", [pytest.param("a..b", id="empty label"), pytest.param("x" * 300, id="too long")]
)
@on_both_loops
def test_what_is_no_name(run: Run, host: str) -> None:
    """What can be no host name fails as one that cannot be found."""
    assert run(failure(Origin("http", host, 80))).kind == "dns"


@on_both_loops
def test_connecting_has_a_time_limit(run: Run) -> None:
    """A TLS handshake that nobody answers is bounded by the connect time-out, and leaves nothing."""

    async def main() -> None:
        async with RawServer([GONE]) as server:
            error = await failure(Origin("https", "127.0.0.1", server.port), 0.1)
            assert error.kind == "timeout"
            await (await server.peer()).ended.wait()

    run(main())


@on_both_loops
def test_tls_with_a_ca_file(run: Run) -> None:
    """HTTPS works by name and by address, with a CA of one's own; HTTP/1.1 is negotiated."""

    async def main() -> None:
        chosen = []

        async def note(peer: Peer) -> None:
            chosen.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())

        async with RawServer([note, *OK], tls=server_tls()) as server:
            for host in ("localhost", "127.0.0.1"):
                assert await get(Origin("https", host, server.port, ca_file=CA)) == b"ok"
        assert chosen == ["http/1.1", "http/1.1"]

    run(main())


@on_both_loops
def test_tls_is_checked(run: Run) -> None:
    """An unknown authority is refused, and accepted where checking was switched off."""

    async def main() -> None:
        async with RawServer([*OK], tls=server_tls()) as server:
            error = await failure(Origin("https", "localhost", server.port))
            assert error.kind == "tls"
            assert "certificate" in str(error) or "signed" in str(error)
            assert await get(Origin("https", "localhost", server.port, verify=False)) == b"ok"

    run(main())


@on_both_loops
def test_tls_to_a_server_that_has_none(run: Run) -> None:
    """`https` where the server speaks plain HTTP is a TLS error, not a broken answer."""

    async def main() -> None:
        async with RawServer([answer(b"plain"), GONE]) as server:
            assert (await failure(Origin("https", "127.0.0.1", server.port))).kind == "tls"

    run(main())


@on_both_loops
def test_a_missing_ca_file(run: Run) -> None:
    """A CA file that is not there is named."""
    error = run(failure(Origin("https", "127.0.0.1", 9, ca_file="/nowhere/ca.pem")))
    assert error.kind == "tls"
    assert "/nowhere/ca.pem" in str(error)


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
@on_both_loops
def test_unix_sockets(run: Run, tmp_path: Path) -> None:
    """A server behind a socket file is reached; a missing file and a dead one are told apart."""

    async def main() -> None:
        path = str(tmp_path / "model.sock")
        origin = Origin("http", "localhost", 0, unix_path=path)
        assert (await failure(origin)).kind == "unix"
        async with RawServer(OK, unix_path=path):
            assert await get(origin) == b"ok"
        if os.path.exists(path):  # noqa: ASYNC240 (newer Pythons remove the file)
            assert (await failure(origin)).kind == "refused"

    run(main())


@on_both_loops
def test_a_proxy_for_plain_http(run: Run) -> None:
    """A plain request goes to the proxy with the whole URL and the proxy's credentials."""

    async def main() -> None:
        async with RawServer(OK) as proxy:
            origin = Origin("http", "::1", 8000, proxy=f"http://me:s%40crt@127.0.0.1:{proxy.port}")
            assert await get(origin) == b"ok"
            request = proxy.peers[0].requests[0]
            assert request.line == b"GET http://[::1]:8000/x HTTP/1.1"
            assert request.header(b"proxy-authorization") == b"Basic bWU6c0BjcnQ="

    run(main())


async def tunnel(peer: Peer) -> None:
    """What a proxy does: connect to where CONNECT says, and carry bytes both ways."""
    request = await peer.read_request()
    host, _, port = request.line.split(b" ")[1].rpartition(b":")
    reader, writer = await asyncio.open_connection(host.decode(), int(port))
    await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    tasks = [
        asyncio.ensure_future(carry(peer.reader, writer)),
        asyncio.ensure_future(carry(reader, peer.writer)),
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        writer.close()


@on_both_loops
def test_a_tunnel_through_a_proxy(run: Run) -> None:
    """HTTPS goes through a CONNECT tunnel; the certificate is the upstream's, and it is checked."""

    async def main() -> None:
        async with RawServer(OK, tls=server_tls()) as server, RawServer([tunnel]) as proxy:
            url = f"http://me:pw@127.0.0.1:{proxy.port}"
            origin = Origin("https", "localhost", server.port, ca_file=CA, proxy=url)
            assert await get(origin) == b"ok"
            request = proxy.peers[0].requests[0]
            assert request.line == b"CONNECT localhost:%d HTTP/1.1" % server.port
            assert request.header(b"proxy-authorization") == b"Basic bWU6cHc="
            unchecked = Origin("https", "localhost", server.port, proxy=url)
            assert (await failure(unchecked)).kind == "tls"

    run(main())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param(
            [REQUEST, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"], "407", id="refused"
        ),
        pytest.param([REQUEST, CLOSE], "no answer", id="hangs up"),
        pytest.param([REQUEST, b"x" * 20_000], "no answer", id="talks without an end"),
        pytest.param([REQUEST, b"SSH-2.0 200\r\n\r\n"], "SSH", id="not a proxy"),
    ],
)
@on_both_loops
def test_a_proxy_that_gives_no_tunnel(run: Run, script: list[Step], words: str) -> None:
    """What the proxy said is what we say, and its connection is closed."""

    async def main() -> None:
        async with RawServer([*script, GONE]) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            error = await failure(Origin("https", "cloud.example", 443, proxy=url))
            assert error.kind == "proxy"
            assert words in str(error)
            await (await proxy.peer()).ended.wait()

    run(main())


@on_both_loops
def test_a_proxy_that_never_answers(run: Run) -> None:
    """The connect time-out covers the proxy, whose connection is closed."""

    async def main() -> None:
        async with RawServer([REQUEST, GONE]) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            error = await failure(Origin("https", "cloud.example", 443, proxy=url), 0.1)
            assert error.kind == "timeout"
            await (await proxy.peer()).ended.wait()

    run(main())


@pytest.mark.parametrize(
    "proxy",
    [pytest.param("socks5://127.0.0.1:9", id="socks"), pytest.param("127.0.0.1:9", id="no scheme")],
)
def test_a_proxy_that_we_cannot_use(proxy: str) -> None:
    """Only HTTP proxies are spoken to; others are named as the reason."""
    error = asyncio.run(failure(Origin("https", "cloud.example", 443, proxy=proxy)))
    assert error.kind == "proxy"


def test_credentials_are_unquoted() -> None:
    """The proxy's URL may hold any password, quoted."""
    assert proxy_credentials("http://u:p%3Aw@h") == "Basic dTpwOnc="
    assert proxy_credentials("http://h") is None


@on_both_loops
def test_a_connection_to_itself_is_refused(run: Run) -> None:
    """TCP connects a port to itself when it is both ends; it counts as a server that is not there, and is closed."""

    async def check() -> None:
        sock = socket.socket()  # the transport's from here on
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        transport, _ = await loop.create_connection(lambda: _TellsWhenLost(lost), sock=sock)
        with pytest.raises(ConnectionRefusedError):
            refuse_itself(transport)
        await lost

    run(check())


class _TellsWhenLost(asyncio.Protocol):
    def __init__(self, lost: asyncio.Future[None]) -> None:
        self._lost = lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set_result(None)
