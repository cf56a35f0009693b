"""
Requests that are passed on as they are: an upstream's own reading paths, its state-changing ones (admin
token), `/upstream/NAME/...`. They take no permit and have no stall limit.

A page that a server sends comes from the gateway's own origin, as the dashboard does, and could switch the gateway
with the cookie of whoever looks at it. So a browser shows it in a sandbox: an origin of its own, without cookies.
"""

from __future__ import annotations

from penstock import faults
from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.domain.fault import Outcome
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.answer import announcement_headers, end_to_end
from penstock.gateway.edge.exchange import Attempt
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.edge.routes import wire_path
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.cloud import pass_through
from penstock.gateway.steps.opening import no_descriptors
from penstock.gateway.steps.upstream_headers import headers_for
from penstock.gateway.upstreams.fleet import UpstreamState

_SANDBOX = [
    # A second policy can only take away: what the server says itself stays in force.
    (b"content-security-policy", b"sandbox allow-scripts allow-forms"),
    (b"x-content-type-options", b"nosniff"),
]


async def pass_on(incoming: Incoming, runtime: Runtime, transport: UpstreamTransport) -> None:
    """
    Pass one request on and its answer back, as it comes.

    Raises:
        RequestError: there is no upstream for it, or a cloud's path is not an API path.
        UpstreamFault: the upstream cannot be reached.
    """
    exchange = incoming.exchange
    raw = await incoming.read_body(runtime.settings)
    exchange.body_bytes = len(raw)
    state = choose(incoming, runtime)
    exchange.upstream, exchange.locality = state.name, state.verdict.locality
    if not state.is_local:
        if "text/html" in incoming.headers.get("accept", ""):
            raise RequestError(
                ErrorCode.NOT_FOUND,
                f"{state.name} is a cloud: its pages are not shown from the gateway's address, where they could "
                "switch it.",
                hint="Programs that ask for its API do not accept HTML.",
            )
        await pass_through(incoming, runtime.settings, transport, state, raw)
        return
    await _local(incoming, runtime, transport, state, raw)


def choose(incoming: Incoming, runtime: Runtime) -> UpstreamState:
    """The upstream named in the path, else the default one, else the only (local) one."""
    named = incoming.route.upstream
    fleet = runtime.fleet
    declared = fleet.declared()
    if named is not None:
        if named not in declared:
            names = ", ".join(declared) or "none"
            raise RequestError(
                ErrorCode.NOT_FOUND, f"No upstream is called {named[:100]!r}; there are: {names}."
            )
        return fleet.get(named)
    default = runtime.settings.routing.default_upstream
    if default is not None and default in declared:
        return fleet.get(default)
    local = dict.fromkeys(state.declared for state in fleet if state.is_local)
    if len(local) == 1:
        return fleet.get(next(iter(local)))
    if len(declared) == 1:
        return fleet.get(declared[0])
    raise RequestError(
        ErrorCode.NOT_FOUND,
        f"{incoming.route.upstream_path} could be meant for several upstreams: "
        f"{', '.join(declared) or 'none is configured'}.",
        hint="Ask for /upstream/NAME/..., or set routing.default_upstream.",
    )


async def _local(
    incoming: Incoming,
    runtime: Runtime,
    transport: UpstreamTransport,
    state: UpstreamState,
    raw: bytes,
) -> None:
    exchange, answer = incoming.exchange, incoming.answer
    path = incoming.route.upstream_path
    request = UpstreamRequest(
        incoming.method.encode("ascii"),
        (state.prefix + wire_path(path) + incoming.query).encode("ascii"),
        headers_for(incoming, state, path, runtime.via),
        raw if raw or incoming.method in ("POST", "PUT", "PATCH") else None,
    )
    exchange.attempts.append(Attempt(state.name, exchange.arrived_s))
    response = None
    try:
        response = await transport.send(
            state.origin,
            request,
            connect_timeout_s=runtime.settings.timeouts.connect_s,
            head_timeout_s=None,
        )
        headers = end_to_end(response.headers)
        headers.extend(_SANDBOX)
        headers.extend(announcement_headers(exchange))
        await answer.start(response.status, headers)
        while data := await response.next_chunk():
            await answer.write(data)
        await answer.end()
        exchange.outcome = Outcome.SUCCESS
        if incoming.route.kind == "change":
            runtime.keeper.contradicted(state, "a request changed the server's state")
    except TransportError as exc:
        exchange.outcome = Outcome.DROPPED
        if answer.committed:
            exchange.error_code = ErrorCode.BROKEN_STREAM.value
            answer.abort()
            return
        if exc.kind == "descriptors":
            exchange.outcome = Outcome.IGNORED
            raise no_descriptors() from exc
        fault = faults.classify_transport(
            kind=exc.kind,
            phase=exc.phase,
            reused=exc.reused,
            received_bytes=exc.received_bytes,
            detail=str(exc),
            spec=state.spec,
        )
        runtime.keeper.contradicted(state, "it could not be reached")
        raise faults.to_error(fault, upstream=state.name, attempts=1, window=None) from exc
    finally:
        if response is not None:
            response.close()
