"""
Undoes gzip and deflate in a local upstream's answer.

No compression is asked for (bytes on loopback cost nothing, and a stream would be held back), but proxies
and odd servers compress all the same. Without this their answers would be no JSON to anybody. What comes
out is bounded piece by piece, so that a small answer cannot become a large one in memory.
"""

from __future__ import annotations

import zlib

from penstock.adapters.transport import TransportError, UpstreamResponse

_PIECE_BYTES = 256 * 1024
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_CODINGS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}


def content_coding(response: UpstreamResponse) -> bytes:
    """The coding of an answer's body, b"" for none."""
    for name, value in response.headers:
        if len(name) == 16 and name.lower() == b"content-encoding":
            coding = value.strip().lower()
            return b"" if coding == b"identity" else coding
    return b""


def can_decode(coding: bytes) -> bool:
    """Whether `Decoded` undoes *coding* (none at all is fine too)."""
    return not coding or coding in _CODINGS


class Decoded:
    """
    An `UpstreamResponse` whose body was compressed and no longer is.

    Args:
        response: the answer as it came.
        coding: of its body; one that `can_decode` knows.
    """

    def __init__(self, response: UpstreamResponse, coding: bytes) -> None:
        self._response = response
        self._coding = coding.decode("ascii")
        self._wbits = _CODINGS[coding]
        self._decoder = zlib.decompressobj(self._wbits)
        self._began = False
        self._left = b""
        self.status = response.status
        self.headers = [
            (name, value)
            for name, value in response.headers
            if name.lower() not in (b"content-encoding", b"content-length")
        ]
        self.reused = response.reused
        self.complete = False  # known at the end only: what is left may hold nothing more, or much

    @property
    def ready(self) -> bool:
        """See `UpstreamResponse`: what is there may still decode to nothing, so this promises nothing."""
        return False

    async def next_chunk(self) -> bytes:
        """See `UpstreamResponse`."""
        while True:
            if not self._left:
                self._left = await self._response.next_chunk()
                if not self._left:
                    if self._began and not self._decoder.eof:
                        raise self._broken("it ends too early")
                    self.complete = True
                    return b""
            piece = self._decode()
            if piece:
                return piece

    def _decode(self) -> bytes:
        """The next piece of what is left; b"" when it takes more bytes to go on."""
        data = self._left
        if self._decoder.eof:
            if self._wbits != _GZIP or not data.startswith(b"\x1f"):
                self._left = b""  # padding
                return b""
            self._decoder = zlib.decompressobj(_GZIP)  # another member follows
        elif not self._began and self._wbits == _ZLIB and data[0] & 0x0F != 8:
            self._wbits = _RAW  # "deflate" without its wrapper, as some send it
            self._decoder = zlib.decompressobj(_RAW)
        self._began = True
        try:
            piece = self._decoder.decompress(data, _PIECE_BYTES)
        except zlib.error as exc:
            self._response.close()
            raise self._broken(str(exc)) from exc
        self._left = self._decoder.unconsumed_tail or self._decoder.unused_data
        return piece

    async def read(self, limit_bytes: int) -> bytes:
        """See `UpstreamResponse`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.next_chunk():
            size += len(data)
            if size > limit_bytes:
                self.close()
                raise TransportError(
                    "protocol", "body", detail=f"the answer exceeds {limit_bytes} bytes"
                )
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """See `UpstreamResponse`."""
        self._response.close()

    def _broken(self, why: str) -> TransportError:
        return TransportError(
            "protocol", "body", detail=f"the answer's {self._coding} cannot be read: {why}"
        )
