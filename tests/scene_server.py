"""Serves the recorded answers of a model server over TCP: a server's probes without the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Self

from penstock.servers.base import Answer
from server_scenes import Scene


class SceneServer:
    """
    Answers each path as the scene does, on 127.0.0.1 and a port of the system's choice.

    Attributes:
        scene: may be replaced while it runs, as if another program had taken the port.
        asked: keys of all requests so far ("GET /props").
        headers: of all requests so far, by lower-case name.
        delays_s: seconds before the answer, by key.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.delays_s: dict[str, float] = {}
        self.most_at_once = 0
        self._at_once = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer_one(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        pairs = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        key = f"{method} {path}"
        if path == "/api/show" and body:
            key = f"show {json.loads(body)['model']}"
        self.asked.append(key)
        self.headers.append(headers)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delays_s.get(key, 0.0))
        finally:
            self._at_once -= 1
        answer = self.scene.answers.get(key, self.scene.default)
        writer.write(_render(answer))
        await writer.drain()


def _render(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Scene"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines.append(f"content-length: {len(answer.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + answer.body
