"""The obvious way to write such a gateway: FastAPI and httpx, a few lines. What Penstock is held against."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

UPSTREAM = os.environ["UPSTREAM"]
app = FastAPI()
client = httpx.AsyncClient(
    base_url=UPSTREAM,
    timeout=None,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Pass one request on."""
    body = await request.json()
    if not body.get("stream"):
        answer = await client.post("/v1/chat/completions", json=body)
        return Response(answer.content, answer.status_code, media_type="application/json")

    async def events() -> AsyncIterator[bytes]:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk

    return StreamingResponse(events(), media_type="text/event-stream")
