"""
The real model servers that tests talk to, built or started on first use.

`start_llamacpp` runs the real llama.cpp from the wheel `xllamacpp` on a model that is made in a second.
`start_ollama` runs a real Ollama, built once from its Go module (four minutes on two cores) and kept in
the user's cache folder, outside the checkout; `PENSTOCK_TEST_OLLAMA` names a binary to use instead.

When a part cannot be had here, the test that wants it is skipped with one sentence that says what is
missing. With `CI` set that is a failure (tests/conftest.py), and system packages are installed.

Everything listens on loopback only and ends with the test, also when the test run is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import platformdirs
import pytest

from penstock.adapters import tiny_model
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions, ServerDied

CACHE = Path(
    os.environ.get("PENSTOCK_TEST_PARTS") or platformdirs.user_cache_path("penstock-test-parts")
)
OLLAMA_VERSION = "0.17.4"
OLLAMA_TEMPLATE = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
OLLAMA_TOOLS_TEMPLATE = (
    "{{ if .Tools }}<|im_start|>system\n{{ range .Tools }}{{ . }}{{ end }}<|im_end|>\n{{ end }}"
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}"
    "{{ range .ToolCalls }}<tool_call>{{ .Function }}</tool_call>{{ end }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
"""Like that of Hermes; Ollama answers with the call as plain text all the same."""

_OLLAMA_GO_MOD = f"""\
module penstock.dev/testparts/ollama

go 1.26.0

require (
	github.com/gen2brain/malgo v0.11.24
	github.com/ollama/ollama v{OLLAMA_VERSION}
)

tool github.com/ollama/ollama
"""
_OLLAMA_RECIPE = (
    "1"  # raise it when the way of building changes: the cached binary is then built anew
)
_HEADERS = {
    "/usr/include/nlohmann/json.hpp": "nlohmann-json3-dev",
    "/usr/include/stb/stb_image.h": "libstb-dev",
}
"""Headers that Ollama's Go module leaves out of its vendored C++, and Debian's packages with them."""

Kind = Literal["tiny", "slow"]


def missing(what: str) -> NoReturn:
    """Skip the test that asks, in one sentence; with `CI` set this becomes a failure."""
    pytest.skip(f"missing part: {what}")


past_capturing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
"""Switches pytest's capturing off for a moment; tests/conftest.py puts the real one here."""


def say(text: str) -> None:
    """Progress of something long, seen at once."""
    with past_capturing():
        print(f"\ntest parts: {text}", file=sys.stderr, flush=True)


# Models


def model(
    kind: Kind = "tiny",
    *,
    says: str | None = None,
    template: str | None = None,
    trained_window: int | None = None,
    by_words: bool = False,
) -> Path:
    """
    A model file, made on first use.

    Args:
        kind: `tiny` (1.5 MB, prefills 32,000 tokens a second) or `slow` (203 MB, 760 tokens a second).
        says: the text that it answers to everything at temperature 0; with the template of Hermes.
        template: another chat template (Jinja).
        trained_window: tokens that the file claims to be trained for.
        by_words: what it says can be cut and continued, see `write_model`.
    """
    shape = {"tiny": tiny_model.TINY, "slow": tiny_model.SLOW}[kind]
    if trained_window is not None:
        shape = replace(shape, trained_window=trained_window)
    sources = sorted(Path(tiny_model.__file__).parent.glob("tiny_*.py"))
    recipe = repr(
        ([source.read_text("utf-8") for source in sources], shape, says, template, by_words)
    )
    folder = CACHE / "models"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.gguf"
    if not file.is_file():
        with alone(folder / f"{file.name}.lock"):
            if not file.is_file():
                _forget_old(folder, most=24)
                tiny_model.write_model(
                    file,
                    shape=shape,
                    name=f"penstock-{kind}",
                    template=template,
                    says=says,
                    by_words=by_words,
                )
    os.utime(file)
    return file


def _forget_old(folder: Path, most: int) -> None:
    """Keep the cache small: models of earlier recipes go when nobody used them for a day."""
    files = sorted(folder.glob("*.gguf"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[most:]:
        if file.stat().st_mtime < time.time() - 86_400:
            file.unlink(missing_ok=True)


# llama.cpp


def _on_its_port(options: LlamaServerOptions) -> EmbeddedServer:
    """A server on a port that was free a moment ago: some client's own end of a connection may have it just now."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            return EmbeddedServer(options).wait_ready(60.0)
        except ServerDied:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


class LlamaCpp:
    """
    A running llama.cpp.

    Attributes:
        model: its GGUF file.
    """

    def __init__(self, options: LlamaServerOptions) -> None:
        self._server = EmbeddedServer(options).wait_ready(60.0)
        self.model = Path(options.model)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    @property
    def pid(self) -> int:
        """Of its process; another one after a restart."""
        return self._server.pid

    @property
    def port(self) -> int:
        """The same after a restart."""
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._server.log_tail(100_000)

    def restart(self, **changes: Any) -> None:
        """End it and start it on the same port with other options (`ctx_size=4096`)."""
        port = self.port
        self._server.stop()
        options = replace(self._server.options, port=port, **changes)
        self._server = _on_its_port(options)
        self.model = Path(options.model)

    def kill(self) -> None:
        """End it as a crash would."""
        self._server.kill()

    def start_again(self, **changes: Any) -> None:
        """Start it on the same port after `kill`."""
        options = replace(self._server.options, port=self.port, **changes)
        self._server = _on_its_port(options)

    def stop(self) -> None:
        """End it."""
        self._server.stop()

    def get(self, path: str) -> Any:
        """The JSON that it answers itself."""
        return fetch(self.url + path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_llamacpp(
    kind: Kind = "tiny",
    *,
    says: str | None = None,
    template: str | None = None,
    by_words: bool = False,
    ctx_size: int = 4096,
    parallel: int = 1,
    port: int = 0,
    **options: Any,
) -> LlamaCpp:
    """
    Start llama.cpp.

    Args:
        kind, says, template, by_words: see `model`.
        ctx_size: tokens of all slots together.
        parallel: slots.
        options: see `penstock.adapters.embedded.LlamaServerOptions`.
    """
    file = options.pop("model", None) or model(
        kind, says=says, template=template, by_words=by_words
    )
    # Its threads spin while they wait for each other: on a busy machine two are far slower than one.
    options.setdefault("threads", 1)
    return LlamaCpp(
        LlamaServerOptions(
            model=str(file), port=port, ctx_size=ctx_size, parallel=parallel, **options
        )
    )


# Ollama


class Ollama:
    """
    A running Ollama with a home of its own.

    Attributes:
        url: where it listens; the same after a restart.
        pid: of its process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._binary = ollama_binary()
        self._home = Path(tempfile.mkdtemp(prefix="penstock-ollama-"))
        self._environment = dict(environment)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.begin()

    def begin(self) -> None:
        """Start it."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith("OLLAMA_")
        }
        environment |= {
            "HOME": str(self._home),
            "OLLAMA_HOST": self.url.removeprefix("http://"),
            "OLLAMA_MODELS": str(self._home / "models"),
            **self._environment,
        }
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # The shell becomes Ollama; beside it waits a reader that ends the whole group when
                # the test run, which holds the other end of the pipe, is gone.
                ["/bin/sh", "-c", _END_WITH_PARENT, "sh", str(self._binary), "serve"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                fetch(f"{self.url}/api/version")
                return
            time.sleep(0.02)
        log_end = self.log[-2000:]
        self.stop()
        raise RuntimeError(f"Ollama did not start.\n{log_end}")

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self._home / "log").read_text("utf-8", "replace")

    def create(
        self,
        name: str,
        file: Path,
        *,
        num_ctx: int | None = None,
        template: str = OLLAMA_TEMPLATE,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        """Make a model called *name* from the GGUF *file*, as `ollama create` does from a Modelfile."""
        lines = [f"FROM {file}", f'TEMPLATE """{template}"""', 'PARAMETER stop "<|im_end|>"']
        for key, value in {"num_ctx": num_ctx, **(parameters or {})}.items():
            if value is not None:
                lines.append(f"PARAMETER {key} {value}")
        modelfile = self._home / "Modelfile"
        modelfile.write_text("\n".join(lines) + "\n", "utf-8")
        done = subprocess.run(
            [str(self._binary), "create", name, "-f", str(modelfile)],
            env={
                "HOME": str(self._home),
                "OLLAMA_HOST": self.url.removeprefix("http://"),
                "PATH": os.environ["PATH"],
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"ollama create failed: {done.stderr[-1000:]}")

    def get(self, path: str) -> Any:
        """The JSON that it answers itself."""
        return fetch(self.url + path)

    def post(self, path: str, body: Any) -> Any:
        """The same for a POST with a JSON body."""
        return fetch(self.url + path, body)

    def restart(self, **environment: str) -> None:
        """End it and start it on the same port, with these variables of the environment changed."""
        self.end()
        self._environment |= environment
        self.begin()

    def stop(self) -> None:
        """End it and forget its models."""
        self.end()
        shutil.rmtree(self._home, ignore_errors=True)

    def end(self) -> None:
        """End it; `begin` starts it again."""
        if self._process.poll() is None:
            self._process.terminate()  # it ends its runners then
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        # What is left of its group: the reader beside it, and runners that would not end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


_END_WITH_PARENT = """
exec 3<&0
(cat <&3 >/dev/null 2>&1; kill -TERM 0) &
exec "$@" 3<&- </dev/null
"""


def start_ollama(
    kind: Kind = "tiny",
    *,
    name: str = "tiny",
    says: str | None = None,
    by_words: bool = False,
    num_ctx: int | None = 2048,
    template: str | None = None,
    parameters: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ollama:
    """
    Start Ollama and make one model in it.

    Args:
        kind, says, by_words: see `model`.
        name: the model's name; further ones by `Ollama.create`.
        num_ctx: the window that the Modelfile asks for; None for Ollama's own default.
        template: of the Modelfile; with *says* the one with tools is the default.
        parameters: more of the Modelfile, such as `{"temperature": 0.6}`.
        environment: variables for the server, such as `{"OLLAMA_NUM_PARALLEL": "2"}`.
    """
    server = Ollama(environment or {})
    try:
        server.create(
            name,
            model(kind, says=says, by_words=by_words),
            num_ctx=num_ctx,
            template=template or (OLLAMA_TOOLS_TEMPLATE if says else OLLAMA_TEMPLATE),
            parameters=parameters,
        )
    except BaseException:
        server.stop()
        raise
    return server


def ollama_binary() -> Path:
    """The real Ollama, built on first use."""
    given = os.environ.get("PENSTOCK_TEST_OLLAMA")
    if given:
        return Path(given)
    if not sys.platform.startswith("linux"):
        missing("Ollama is built here on Linux only; name a binary by PENSTOCK_TEST_OLLAMA")
    binary = CACHE / f"ollama-{OLLAMA_VERSION}-{_OLLAMA_RECIPE}" / "ollama"
    if binary.is_file():
        return binary
    CACHE.mkdir(parents=True, exist_ok=True)
    with alone(CACHE / "ollama.lock"):
        if not binary.is_file():
            _build_ollama(binary)
    return binary


def _build_ollama(binary: Path) -> None:
    """
    Build Ollama from its Go module into *binary*, whole or not at all.

    The module leaves out three headers that its C++ sources include: two come from Debian's packages,
    `miniaudio.h` from the module `malgo`, which carries the same file.
    """
    if shutil.which("go") is None:
        missing("building Ollama needs Go 1.26 or newer (https://go.dev/dl)")
    need_packages([package for header, package in _HEADERS.items() if not Path(header).exists()])
    started = time.monotonic()
    say(f"building Ollama {OLLAMA_VERSION} once; this takes about four minutes on two cores ...")
    with tempfile.TemporaryDirectory(prefix="penstock-ollama-build-") as name:
        work = Path(name)
        (work / "go.mod").write_text(_OLLAMA_GO_MOD, "utf-8")
        go("Ollama", work, "mod", "download", "github.com/gen2brain/malgo")
        audio = go(
            "Ollama", work, "list", "-m", "-f", "{{.Dir}}", "github.com/gen2brain/malgo"
        ).strip()
        go("Ollama", work, "mod", "tidy")
        headers = work / "include" / "miniaudio"
        headers.mkdir(parents=True)
        shutil.copy(Path(audio) / "miniaudio.h", headers)
        built = work / "ollama"
        flags = f"-s -w -X github.com/ollama/ollama/version.Version={OLLAMA_VERSION}"
        go(
            "Ollama",
            work,
            *("build", "-trimpath", "-ldflags", flags, "-o", str(built)),
            "github.com/ollama/ollama",
            CGO_CXXFLAGS=f"-O2 -g0 -I{headers.parent} -I/usr/include",
        )
        binary.parent.mkdir(exist_ok=True)
        partial = binary.with_suffix(".part")
        shutil.copy2(built, partial)
        partial.replace(binary)
    say(f"Ollama is built ({time.monotonic() - started:.0f} s)")


def go(what: str, work: Path, *arguments: str, **environment: str) -> str:
    """
    Run Go in *work* to build *what*; another toolchain than the installed one is fetched if a module wants it.
    """
    done = subprocess.run(
        ["go", *arguments],
        cwd=work,
        env={**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        missing(f"building {what} failed at `go {arguments[0]}`: {done.stderr.strip()[-600:]}")
    return done.stdout


# What they stand on


def need_packages(packages: list[str]) -> None:
    """Debian's packages: installed where that is wanted (`CI`), else asked for."""
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    sentence = f"these packages are needed: sudo {' '.join(command)}"
    if not os.environ.get("CI") or shutil.which("apt-get") is None:
        missing(sentence)
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say(f"installing {' '.join(packages)} ...")
    for wait_s in (0, 5, 20):  # another apt may hold the lock, a mirror may stumble
        time.sleep(wait_s)
        done = subprocess.run([*sudo, *command], env=quiet, capture_output=True, check=False)
        if done.returncode == 0:
            return
        update = [*sudo, "apt-get", "update"]
        subprocess.run(update, env=quiet, capture_output=True, check=False)
    missing(sentence)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however that ends."""
    with lock.open("a+b") as file:
        if os.name == "nt":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run that makes {lock.stem} ...")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(url: str, body: Any = None, within_s: float = 60.0) -> Any:
    """Ask a server directly, past every proxy of the environment; GET, or POST with a *body*."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=within_s) as answer:
        return json.loads(answer.read())


def answers(url: str) -> bool:
    """Whether a server answers a GET with a status below 400."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5.0):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
