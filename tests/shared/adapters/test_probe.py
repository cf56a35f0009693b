"""A look at a server: everything asked side by side, nothing followed, nothing believed at length."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest

from loops import Run, on_both_loops
from penstock.adapters import discover, probe
from penstock.domain.upstream import ServerKind, Upstream
from penstock.servers import SPECS, spec
from penstock.servers.base import Answer
from scene_server import SceneServer
from server_scenes import MODEL_SERVERS, SCENES, STRANGERS, Scene, scene


async def looked_at(one: Scene, **how: object) -> tuple[probe.Look, SceneServer]:
    """A look at a scene that is served over TCP."""
    async with SceneServer(one) as server, probe.make_client() as client:
        found = await probe.look(server.url, client=client, **how)  # type: ignore[arg-type]
    return found, server


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in MODEL_SERVERS])
def test_a_look_says_what_is_there(one: Scene) -> None:
    """Over the wire a server is recognised and read exactly as from its recorded answers."""
    found, _ = asyncio.run(looked_at(one))
    assert one.kind is not None
    assert (found.reachable, found.kind) == (True, one.kind)
    guarded = one.name in ("llamacpp/with_key", "jan/without_key", "generic/asks_for_a_key")
    assert found.error == ("it asks for a key" if guarded else None)
    assert found.reading == spec(one.kind).read(one.answers)
    assert found.verdict.is_local


@pytest.mark.parametrize("one", [pytest.param(s, id=s.name) for s in STRANGERS])
def test_a_stranger_is_told_as_such(one: Scene) -> None:
    """Something that is no model server is reachable, has no kind, and the reason is one sentence."""
    found, _ = asyncio.run(looked_at(one))
    assert (found.reachable, found.kind, found.reading) == (True, None, None)
    assert found.error is not None
    assert found.is_penstock is (one.name == "strangers/penstock")


@on_both_loops
def test_nobody_listens(run: Run) -> None:
    """A port where nobody listens is told in one sentence, after one question."""

    async def main() -> probe.Look:
        async with SceneServer(SCENES[0]) as server:
            url = server.url
        async with probe.make_client() as client:
            return await probe.look(url, client=client)

    found = run(main())
    assert (found.reachable, found.kind, found.reading) == (False, None, None)
    assert found.error is not None
    assert found.error.startswith("cannot connect to 127.0.0.1:")


def test_questions_are_asked_side_by_side() -> None:
    """The probes of all kinds go out together: a slow answer does not delay the others one by one."""

    async def main() -> tuple[float, SceneServer]:
        async with SceneServer(scene("vllm/serving")) as server, probe.make_client() as client:
            for one in SPECS.values():
                server.delays_s |= {p.key: 0.1 for p in one.probes}
            began = time.monotonic()
            await probe.look(server.url, client=client)
            return time.monotonic() - began, server

    took_s, server = asyncio.run(main())
    assert 1 < server.most_at_once <= 8, "some at a time, never all of them at a small server"
    assert took_s < 0.1 * len(server.asked) / 2


def test_a_known_server_is_asked_little() -> None:
    """At a refresh only the kind's own questions are asked."""
    found, server = asyncio.run(looked_at(scene("llamacpp/two_slots"), known=ServerKind.LLAMACPP))
    assert found.kind is ServerKind.LLAMACPP
    own = {
        p.key
        for p in (
            *SPECS[ServerKind.LLAMACPP].probes,
            *SPECS[ServerKind.LLAMACPP].reading_probes({}),
        )
    }
    assert set(server.asked) <= own


def test_another_program_on_the_port_is_noticed() -> None:
    """When the kind that was there no longer matches, everything is asked again."""
    found, _ = asyncio.run(looked_at(scene("vllm/serving"), known=ServerKind.LLAMACPP))
    assert found.kind is ServerKind.VLLM
    assert found.reading is not None
    assert found.reading.models[0].running_window == 32768


def test_a_declared_kind_is_taken_at_its_word() -> None:
    """With a kind declared nothing is fingerprinted."""
    found, server = asyncio.run(looked_at(scene("vllm/serving"), kind=ServerKind.GENERIC))
    assert found.kind is ServerKind.GENERIC
    assert set(server.asked) == {"GET /v1/models"}


def test_the_key_goes_along() -> None:
    """A configured key is sent with every question; without one no credential is."""
    for key in ("secret", None):
        _, server = asyncio.run(looked_at(scene("jan/with_key"), api_key=key))
        sent = {headers.get("authorization") for headers in server.headers}
        assert sent == {f"Bearer {key}" if key else None}


def test_the_host_is_the_upstreams_own() -> None:
    """Ollama answers 403 to a foreign Host."""
    _, server = asyncio.run(looked_at(scene("ollama/one_loaded")))
    assert {headers["host"] for headers in server.headers} == {f"127.0.0.1:{server.port}"}


def test_redirects_are_not_followed() -> None:
    """A redirect leads nowhere: no other machine is asked on a server's word."""

    async def main() -> tuple[probe.Look, list[str]]:
        async with (
            SceneServer(scene("ollama/one_loaded")) as other,
            SceneServer(scene("strangers/not_found")) as server,
            probe.make_client() as client,
        ):
            away = Answer(302, {"location": f"{other.url}/api/version"}, b"")
            server.scene = replace(server.scene, answers={}, default=away)
            return await probe.look(server.url, client=client), other.asked

    found, asked = asyncio.run(main())
    assert found.kind is None
    assert asked == []


def test_no_proxy_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is never used for a server on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found, _ = asyncio.run(looked_at(scene("ollama/one_loaded")))
    assert found.reachable


def test_a_huge_answer_is_given_up() -> None:
    """A body beyond 4 MiB is no answer, and the look goes on without it."""
    huge = Answer(200, {"content-type": "application/json"}, b'{"x":"' + b"x" * 5_000_000 + b'"}')
    one = scene("vllm/serving")
    found, _ = asyncio.run(looked_at(replace(one, answers={**one.answers, "GET /": huge})))
    assert found.kind is ServerKind.VLLM
    assert "GET /" not in found.answers


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
        pytest.param(b"[" * 5000, id="deep"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"data": [null, 1, {"id": 7}, {"id": ""}]}', id="wrong types"),
        pytest.param(b'{"version": 17, "models": {"a": 1}}', id="wrong shapes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_nonsense_is_survived(body: bytes) -> None:
    """Whatever a server answers to everything, the look ends with a sentence."""
    default = Answer(200, {"content-type": "application/json"}, body)
    found, _ = asyncio.run(
        looked_at(replace(scene("strangers/empty_object"), answers={}, default=default))
    )
    assert found.reachable
    assert found.kind is None


def test_a_server_that_does_not_answer_in_time() -> None:
    """One path that hangs costs its time-out once, and the rest is read all the same."""

    async def main() -> tuple[probe.Look, float]:
        async with SceneServer(scene("vllm/serving")) as server, probe.make_client() as client:
            server.delays_s = {"GET /props": 60.0}
            began = time.monotonic()
            found = await probe.look(server.url, client=client, timeout_s=0.3)
            return found, time.monotonic() - began

    found, took_s = asyncio.run(main())
    assert found.kind is ServerKind.VLLM
    assert 0.3 <= took_s < 3.0


def test_a_relay_on_loopback_is_cloud() -> None:
    """What only passes on to a cloud is told as cloud, with the reason."""
    rows = [{"id": "gpt-5", "owned_by": "openai"}]
    listing = Answer(200, {}, json.dumps({"data": rows}).encode())
    one = scene("strangers/not_found")
    found, _ = asyncio.run(looked_at(replace(one, answers={"GET /v1/models": listing})))
    assert found.kind is ServerKind.GENERIC
    assert not found.verdict.is_local
    assert "openai" in found.verdict.evidence[0].detail


@pytest.mark.parametrize(
    ("name", "state"),
    [
        pytest.param("llamacpp/two_slots", True, id="ready"),
        pytest.param("llamacpp/loading", False, id="loading"),
        pytest.param("ollama/nothing_loaded", True, id="Ollama"),
        pytest.param("vllm/serving", True, id="vLLM, an empty 200"),
        pytest.param("koboldcpp/serving", True, id="no readiness of its own: its listing"),
    ],
)
def test_readiness(name: str, state: bool) -> None:
    """Ready, or loading; and None when nobody listens any more."""
    one = scene(name)
    assert one.kind is not None
    kind = spec(one.kind)

    async def main() -> tuple[bool | None, bool | None]:
        async with probe.make_client() as client:
            async with SceneServer(one) as server:
                there = await probe.ready(server.url, kind, client=client)
            return there, await probe.ready(server.url, kind, client=client)

    assert asyncio.run(main()) == (state, None)


def test_busy_slots() -> None:
    """The working slots are counted where the server tells them; None where it does not."""

    async def main() -> list[int | None]:
        counts = []
        async with probe.make_client() as client:
            for name in ("llamacpp/two_slots", "llamacpp/strict_no_slots", "ollama/one_loaded"):
                one = scene(name)
                assert one.kind is not None
                async with SceneServer(one) as server:
                    counts.append(await probe.busy(server.url, spec(one.kind), client=client))
        return counts

    assert asyncio.run(main()) == [0, None, None]


def test_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A server behind a Unix socket is looked at through it."""
    path = tmp_path_factory.mktemp("s") / "o.sock"

    async def main() -> probe.Look:
        server = SceneServer(scene("ollama/one_loaded"))
        async with await asyncio.start_unix_server(server._connected, path):
            upstream = Upstream("o", f"unix://{path}")
            async with probe.make_client(upstream) as client:
                return await probe.look(upstream.url, client=client)

    found = asyncio.run(main())
    assert found.kind is ServerKind.OLLAMA
    assert found.verdict.is_local


def test_discovery_finds_each_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers named twice are found once; strangers, Penstock and our own port are left out."""
    monkeypatch.setattr(discover, "places", _only_named)

    async def main() -> tuple[list[probe.Look], dict[str, int], int]:
        async with (
            SceneServer(scene("ollama/one_loaded")) as ollama,
            SceneServer(scene("llamacpp/two_slots")) as llama,
            SceneServer(scene("strangers/web_page")) as page,
            SceneServer(scene("strangers/penstock")) as gateway,
            SceneServer(scene("vllm/serving")) as own,
        ):
            servers = (ollama, llama, page, gateway, own)
            found, _ = await discover.discover(
                {"OPENAI_BASE_URL": f"http://localhost:{ollama.port}/v1"},
                extra_ports=[server.port for server in servers],
                not_ports=(own.port,),
            )
            ports = {"ollama": ollama.port, "llamacpp": llama.port}
            return found, ports, len(own.asked)

    found, ports, asked_own = asyncio.run(main())
    assert {look.kind: int(look.url.rsplit(":", 1)[1]) for look in found} == ports
    assert len(found) == 2
    assert asked_own == 0, "it is never asked about itself"


def test_discovery_on_a_quiet_machine_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, not even a refusal, discovery takes one connect limit and not one each."""
    monkeypatch.setattr(discover, "places", _only_named)

    monkeypatch.setattr(discover, "in_container", lambda: False)

    async def silent(url: str, **_: object) -> bool:
        await asyncio.sleep(discover._CONNECT_WITHIN_S)
        return False

    monkeypatch.setattr(discover, "_listens", silent)
    began = time.monotonic()
    found, tried = asyncio.run(discover.discover({}, extra_ports=range(20000, 20030)))
    assert found == []
    assert len(tried) == 30
    assert time.monotonic() - began < 1.0


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a container the Docker host's name is asked for once, and not for each port."""
    monkeypatch.setattr(discover, "places", _only_named)
    monkeypatch.setattr(discover, "in_container", lambda: True)
    asked: list[object] = []

    async def main() -> list[probe.Look]:
        async def nobody(host: object, *_: object, **__: object) -> list[object]:
            asked.append(host)
            raise OSError("no such name")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody)
        found, tried = await discover.discover({}, extra_ports=range(20000, 20030))
        assert sum("docker" in place.url for place in tried) >= 30
        return found

    assert asyncio.run(main()) == []
    assert asked.count("host.docker.internal") == 1


def test_our_own_port_on_another_machine_is_not_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port is left out on this machine only: elsewhere another server may have it."""
    monkeypatch.setattr(discover, "places", _only_named)
    environ = {"OPENAI_BASE_URL": "http://192.0.2.1:7367", "OLLAMA_HOST": "10.255.255.1:7367"}
    monkeypatch.setattr(discover, "_listens", _nobody)
    _, tried = asyncio.run(discover.discover(environ, extra_ports=(7367,), not_ports=(7367,)))
    assert "http://10.255.255.1:7367" in {place.url for place in tried}
    assert "http://127.0.0.1:7367" not in {place.url for place in tried}


async def _nobody(url: str, **_: object) -> bool:
    return False


def _only_named(environ: dict[str, str], **more: object) -> object:
    """The real places without the usual ports: a test never talks to what runs on the machine."""
    from penstock.detection import places as real

    usual = {place.url for place in real({})}
    return tuple(place for place in real(environ, **more) if place.url not in usual)  # type: ignore[arg-type]
