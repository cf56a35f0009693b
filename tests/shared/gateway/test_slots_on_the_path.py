"""Which slot of the server requests name on the live path, where the gateway is its only client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from loops import until
from penstock.domain.upstream import Upstream
from rawserver import CHUNKED_HEAD, Peer, chunk
from scripted import Here, ScriptedLlama, delta, event, gateway_here, reply, stream


def slots_named(llama: ScriptedLlama) -> list[Any]:
    """`id_slot` of each request as the server got it."""
    return [json.loads(request.body).get("id_slot") for request in llama.requests]


def test_a_slot_that_the_server_lost_is_not_named_again() -> None:
    """It begins again with fewer slots between two attempts; the next conversation gets one that it has."""

    async def main() -> None:
        go_on = asyncio.Event()
        held = [CHUNKED_HEAD, event(delta("x")), go_on, event(delta("", "stop")), event(b"[DONE]"), chunk(b"")]  # fmt: skip
        gateway: Here

        async def shrink(_: Peer) -> None:
            llama.slots = 2
            await gateway.runtime.keeper.look(gateway.runtime.fleet.get("box"))

        message = "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"
        refused = reply(
            {"error": {"code": 400, "message": message, "type": "exceed_context_size_error",
                       "n_prompt_tokens": 5000, "n_ctx": 4096}}, b"400 Bad Request")  # fmt: skip
        scripts = held, held, [shrink, refused], stream("ok")
        async with ScriptedLlama(*scripts, slots=3) as llama:
            async with gateway_here([Upstream("box", llama.url, exclusive=True)]) as gateway:
                running = []
                for number in (1, 2):
                    said = [{"role": "user", "content": f"question {number}"}]
                    running.append(asyncio.create_task(gateway.chat(messages=said, stream=True)))
                    await until(lambda: len(llama.requests) == len(running))
                asked = [{"role": "user", "content": "another question"}]
                assert (await gateway.chat(messages=asked)).status_code == 200
                assert slots_named(llama) == [0, 1, 2, None]
                go_on.set()
                await asyncio.gather(*running)
                assert (await gateway.chat(messages=asked)).status_code == 200
                assert slots_named(llama)[-1] in (0, 1)
                state = gateway.runtime.fleet.get("box")
                context = gateway.runtime.contexts.of(state, state.profiles["m"])
                assert sorted(context.slots.take(name, 2) or 0 for name in (-1, -2)) == [0, 1]

    asyncio.run(main())
