"""A request is gone when it is over: nothing of it waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc

import pytest

from loops import Run, on_both_loops
from penstock.adapters.transport import UpstreamRequest
from penstock.gateway.edge.cycle import Cycle
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.pipeline import LocalRun
from penstock.gateway.steps.watch import Watch
from scripted import ScriptedLlama, gateway_here

_OF_A_REQUEST = (LocalRun, Incoming, Watch, Cycle, UpstreamRequest)


@on_both_loops
@pytest.mark.parametrize(
    "local",
    [pytest.param(True, id="local, streamed"), pytest.param(False, id="cloud, passed through")],
)
def test_nothing_of_a_request_is_left_to_the_collector(run: Run, local: bool) -> None:
    """With the collector off, nothing that a request was made of is left but the connection's last cycle."""

    async def main() -> list[str]:
        async with ScriptedLlama() as llama, gateway_here(llama.url, local=local) as gateway:
            for _ in range(3):
                answer = await gateway.chat(stream=True)
                assert answer.status_code == 200
            gc.collect()
            # What other tests left behind is not of these requests.
            before = {id(one) for one in gc.get_objects() if isinstance(one, _OF_A_REQUEST)}
            gc.disable()
            try:
                for _ in range(3):
                    await gateway.chat(stream=True)
                await asyncio.sleep(0)
                assert any(
                    isinstance(one, Exchange) for one in gc.get_objects()
                )  # it is remembered
                return [
                    type(one).__name__
                    for one in gc.get_objects()
                    if isinstance(one, _OF_A_REQUEST) and id(one) not in before
                ]
            finally:
                gc.enable()

    assert run(main()) in ([], ["Cycle"])
