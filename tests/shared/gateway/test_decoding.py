"""Compressed answers of local upstreams: nobody asked for them, and they are read all the same."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.transport import TransportError
from penstock.gateway.relays.decoding import Decoded, can_decode, content_coding
from rawserver import answer, chunk
from scripted import ScriptedLlama, gateway_here, reply, stream


class Pieces:
    """An answer that comes in these pieces."""

    def __init__(self, pieces: list[bytes], coding: bytes = b"gzip") -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.status, self.reused, self.complete = 200, False, False
        self.headers = [(b"Content-Encoding", coding), (b"content-length", b"1"), (b"x", b"y")]
        self.closed = False

    async def next_chunk(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def read(self, limit_bytes: int) -> bytes:
        return b"".join(self.pieces)

    def close(self) -> None:
        self.closed = True


def raw_deflate(data: bytes) -> bytes:
    """As some servers understand "deflate"."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": (b"gzip", gzip.compress),
    "gzip in two members": (b"gzip", lambda d: gzip.compress(d[:3]) + gzip.compress(d[3:])),
    "gzip and padding": (b"gzip", lambda d: gzip.compress(d) + b"\0\0"),
    "deflate": (b"deflate", zlib.compress),
    "deflate without its wrapper": (b"deflate", raw_deflate),
}


@pytest.mark.parametrize("how", PACKED)
@given(data=st.binary(max_size=400), cut=st.integers(1, 40))
def test_what_was_packed_comes_out(how: str, data: bytes, cut: int) -> None:
    """Whatever it holds, and wherever the network cut it."""
    coding, pack = PACKED[how]
    packed = pack(data)
    pieces = [packed[at : at + cut] for at in range(0, len(packed), cut)]
    found = Decoded(Pieces(pieces, coding), coding)
    assert asyncio.run(found.read(1000)) == data
    assert found.complete
    assert found.headers == [(b"x", b"y")]


def test_a_stream_is_not_held_back() -> None:
    """What the server has flushed comes out at once."""

    async def main() -> None:
        packer = zlib.compressobj(wbits=31)
        first = packer.compress(b"data: 1\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
        found = Decoded(Pieces([first, packer.compress(b"data: 2\n\n") + packer.flush()]), b"gzip")
        assert await found.next_chunk() == b"data: 1\n\n"
        assert not found.complete
        assert await found.next_chunk() == b"data: 2\n\n"
        assert await found.next_chunk() == b""
        assert found.complete

    asyncio.run(main())


def test_a_small_answer_does_not_become_a_large_one() -> None:
    """A gigabyte in a megabyte is refused at the limit, and never held as a whole."""

    async def main() -> None:
        packer = zlib.compressobj(wbits=31)
        packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
        source = Pieces([packed])
        tracemalloc.start()
        with pytest.raises(TransportError, match="exceeds"):
            await Decoded(source, b"gzip").read(4 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert source.closed
        assert peak < 16 << 20

    asyncio.run(main())


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"this is no gzip", id="something else"),
        pytest.param(gzip.compress(b"x" * 500)[:-9], id="cut short"),
        pytest.param(gzip.compress(b"x" * 500)[:-8] + bytes(8), id="a wrong sum"),
    ],
)
def test_what_cannot_be_read_is_said(packed: bytes) -> None:
    """As a failure of the way, never as half an answer."""
    with pytest.raises(TransportError, match="gzip cannot be read"):
        asyncio.run(Decoded(Pieces([packed]), b"gzip").read(10_000))


def test_codings_that_are_known() -> None:
    """`identity` is none."""
    assert content_coding(Pieces([], b"GZIP ")) == b"gzip"
    assert content_coding(Pieces([], b"identity")) == b""
    assert can_decode(b"x-gzip")
    assert can_decode(b"")
    assert not can_decode(b"br")


def packed_stream(*texts: str) -> list[Any]:
    """A whole stream, compressed and flushed event by event."""
    packer = zlib.compressobj(wbits=31)
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    steps: list[Any] = [head]
    for step in stream(*texts)[1:-1]:
        plain = step.split(b"\r\n", 1)[1][:-2]
        steps.append(chunk(packer.compress(plain) + packer.flush(zlib.Z_SYNC_FLUSH)))
    return [*steps, chunk(packer.flush()), chunk(b"")]


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_a_server_that_compresses_is_understood(streams: bool) -> None:
    """Its stream, also when it is collected, in one attempt; the client gets it plain."""

    async def main() -> None:
        script = packed_stream("hel", "lo")
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            got = await gateway.chat(stream=streams)
            assert got.status_code == 200
            assert "content-encoding" not in got.headers
            assert got.headers["penstock-attempts"] == "1"
            if streams:
                assert got.text.endswith("data: [DONE]\n\n")
                assert '"hel"' in got.text
            else:
                assert got.json()["choices"][0]["message"]["content"] == "hello"

    asyncio.run(main())


def test_a_compressed_error_is_understood() -> None:
    """Its words, its status, its class."""

    async def main() -> None:
        body = gzip.compress(b'{"error": {"message": "out of memory", "code": 500}}')
        refusal = answer(
            body, b"500 Internal Server Error", b"content-type: application/json", b"content-encoding: gzip"
        )  # fmt: skip
        async with ScriptedLlama([refusal]) as llama, gateway_here(llama.url) as gateway:
            error = (await gateway.chat()).json()["error"]
            assert (error["code"], error["attempts"]) == ("out_of_memory", 1)

    asyncio.run(main())


def test_what_cannot_be_decoded_is_named_in_one_attempt() -> None:
    """Trying again would bring the same."""

    async def main() -> None:
        script = [reply({"id": "x"}, b"200 OK", b"content-encoding: br")]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            got = await gateway.chat()
            error = got.json()["error"]
            assert (got.status_code, error["code"], error["attempts"]) == (502, "bad_answer", 1)
            assert "compressed with br" in error["message"]

    asyncio.run(main())
