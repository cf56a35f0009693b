"""
A real Kubernetes API server for tests: etcd, kube-apiserver and kube-controller-manager, no node.

Up in a few seconds, on loopback, with ports and a folder of its own; it ends with the test run, also when that is
killed. There is no kubelet: pods stay pending, and everything that the API server decides is real (schemas, rules,
admission, ownership, garbage collection).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

import kube_build
import parts

READY_WITHIN_S = 60.0
_ADMIN_TOKEN = "admin-of-a-test"
_CONTROLLER_TOKEN = "controller-of-a-test"
_TOKENS = (
    f'{_ADMIN_TOKEN},admin,1,"system:masters"',
    f"{_CONTROLLER_TOKEN},system:kube-controller-manager,2",
)
# The shell becomes the program; beside it waits a reader that ends both when the test run, which holds the other
# end of the pipe, is gone. At once: an API server whose etcd went first would wait for it.
_END_WITH_PARENT = """
exec 3<&0
(cat <&3 >/dev/null 2>&1; kill -KILL 0) &
exec "$@" 3<&- </dev/null
"""


class Refused(Exception):
    """kubectl failed; the text is what it said."""


class Process:
    """One program of a cluster, with its log; started by *inside*, a command that enters namespaces."""

    def __init__(
        self, folder: Path, name: str, *arguments: str, inside: Sequence[str] = ()
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._wrapped = bool(inside)
        command = [*inside, str(kube_build.program(name)), *arguments]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _END_WITH_PARENT, "sh", *command],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in clean.items() if not key.lower().endswith("_proxy")},
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the program."""
        if self._wrapped:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in psutil.Process(self._process.pid).children():
                    if one.name() != "sh":  # the reader beside it
                        return one.pid
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text("utf-8", "replace")

    def stop(self, *, kill: bool = False) -> None:
        """End it: politely, and after ten seconds, or with *kill*, without asking."""
        if self.runs and not kill:
            os.kill(self.pid, signal.SIGCONT)  # it may be paused
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the reader beside it, too
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class Direct:
    """The API over one kept connection, for one thread."""

    def __init__(self, connection: http.client.HTTPSConnection) -> None:
        self._connection = connection

    def call(
        self, method: str, path: str, body: str | None = None, *, patch: str = "merge-patch+json"
    ) -> Any:
        """
        The answer as values.

        Args:
            patch: how the body of a PATCH is meant: `merge-patch+json` or `apply-patch+yaml`.

        Raises:
            Refused: with what the API server said.
        """
        kind = patch if method == "PATCH" else "json"
        headers = {"Authorization": f"Bearer {_ADMIN_TOKEN}", "Content-Type": f"application/{kind}"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        value = json.loads(answer.read())
        if answer.status >= 400:
            raise Refused(str(value.get("message")))
        return value

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class ApiServer:
    """
    A running control plane.

    Attributes:
        url: where it listens; the same after a restart.
        folder: holds its data, keys and logs.
        kubeconfig: of an administrator.
    """

    # What a cluster with a node has otherwise (tests/kube_cluster.py).
    _programs: tuple[str, ...] = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
    _tokens: tuple[str, ...] = ()
    _inside: tuple[str, ...] = ()
    _address = "127.0.0.1"
    _services = "10.96.0.0/16"

    def __init__(self) -> None:
        for name in self._programs:
            kube_build.program(name)  # builds come before the clock starts
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-kube-"))
        self._running: dict[str, Process] = {}
        self._namespaces = 0
        self._direct: Direct | None = None
        try:
            self._begin()
        except BaseException:
            self.stop()
            raise

    def _begin(self) -> None:
        pki = self.folder / "pki"
        pki.mkdir()
        (pki / "tokens.csv").write_text("".join(f"{row}\n" for row in (*_TOKENS, *self._tokens)))
        self._etcd = f"http://127.0.0.1:{parts.free_port()}"
        self._port = parts.free_port()
        self.url = f"https://{self._address}:{self._port}"
        peers = f"http://127.0.0.1:{parts.free_port()}"
        self._start(
            "etcd", "--data-dir=etcd", "--unsafe-no-fsync", "--listen-client-urls", self._etcd,
            "--advertise-client-urls", self._etcd, "--listen-peer-urls", peers,
            "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
        )  # fmt: skip
        self.kubeconfig = self.kubeconfig_of(_ADMIN_TOKEN, "admin")
        self.start_apiserver()
        self.kubeconfig_of(_CONTROLLER_TOKEN, "controller-manager")
        self._start_controllers()

    def _start_controllers(self) -> None:
        """
        Start the controllers, and wait until they work.

        While they build their controllers they end when the API server goes away; later they bear it.
        """
        self._start(
            "kube-controller-manager", "--kubeconfig=controller-manager.kubeconfig", "--secure-port=0",
            "--kube-api-qps=500", "--kube-api-burst=1000",
            "--leader-elect=false", "--use-service-account-credentials",
            "--service-account-private-key-file=pki/apiserver.key",
            "--root-ca-file=pki/apiserver.crt",
        )  # fmt: skip
        self._wait_for_account("default")

    def _start(self, name: str, *arguments: str) -> None:
        self._running[name] = Process(self.folder, name, *arguments, inside=self._inside)

    def _apiserver_arguments(self) -> tuple[str, ...]:
        # No reconciler of endpoints: it would not take a loopback address.
        return ("--endpoint-reconciler-type=none", "--authorization-mode=RBAC")

    def process(self, name: str) -> Process:
        """Of `etcd`, `kube-apiserver`, `kube-controller-manager` ..."""
        return self._running[name]

    def start_apiserver(self) -> None:
        """Start it, and wait until it is ready; on the same port and data after `stop_apiserver`."""
        # The key that it makes for its own certificate signs service accounts' tokens as well.
        self._start(
            "kube-apiserver", "--etcd-servers", self._etcd, f"--bind-address={self._address}",
            f"--secure-port={self._port}", "--cert-dir=pki",
            f"--service-cluster-ip-range={self._services}", "--token-auth-file=pki/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=pki/apiserver.key",
            "--service-account-signing-key-file=pki/apiserver.key", *self._apiserver_arguments(),
        )  # fmt: skip
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        self.until("the API server", "kube-apiserver", "get", "--raw", "/readyz")

    def until(self, who: str, program: str, *question: str) -> None:
        """Ask by kubectl until it answers; *program* is whose work that is."""
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self.kubectl(*question)
                return
            except Refused as exc:
                process = self.process(program)
                if not process.runs or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"No answer from {who}: {exc}\n{process.log[-3000:]}"
                    ) from exc
                time.sleep(0.05)

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """End the API server only; etcd keeps its data."""
        self.process("kube-apiserver").stop(kill=kill)

    def compact(self) -> None:
        """Forget the past in etcd: who watches from an earlier version is told that it is gone."""

        def ask(path: str, **body: Any) -> Any:
            said = json.dumps(body).encode()
            with urllib.request.urlopen(f"{self._etcd}/v3/{path}", data=said, timeout=10) as answer:
                return json.load(answer)

        now = ask("maintenance/status")["header"]["revision"]
        ask("kv/compaction", revision=now, physical=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The API server answers nothing, and its connections stay open."""
        pid = self.process("kube-apiserver").pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and forget its data; etcd goes last."""
        for one in reversed(self._running.values()):
            one.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kubeconfig_of(self, token: str, name: str, namespace: str = "default") -> Path:
        """A kubeconfig with *token*."""
        certificate = str(self.folder / "pki" / "apiserver.crt")
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": certificate},
                }
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": name, "namespace": namespace},
                }
            ],
            "current-context": "test",
        }
        file = self.folder / f"{name}.kubeconfig"
        file.write_text(json.dumps(body))
        return file

    def service_account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a new ServiceAccount, which has no rights until somebody binds some to it."""
        self.kubectl("create", "serviceaccount", name, "-n", namespace)
        token = self.kubectl("create", "token", name, "-n", namespace).strip()
        return self.kubeconfig_of(token, f"{namespace}.{name}", namespace)

    def namespace(self, **labels: str) -> str:
        """A new namespace, in which pods could be made."""
        self._namespaces += 1
        name = f"test-{self._namespaces}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})  # fmt: skip
        self._wait_for_account(name)
        return name

    def _wait_for_account(self, namespace: str) -> None:
        """The default account of a namespace is the work of a controller; pods are refused until then."""
        self.until("the controllers", "kube-controller-manager", "get", "sa", "default", "-n", namespace)  # fmt: skip

    def kubectl(self, *arguments: str, body: Any = None, kubeconfig: Path | None = None) -> str:
        """
        What kubectl writes, warnings first.

        Raises:
            Refused: with what it said.
        """
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        done = subprocess.run(
            [str(kube_build.program("kubectl")), "--kubeconfig", str(kubeconfig or self.kubeconfig),
             *arguments],
            input=None if body is None else json.dumps(body),
            capture_output=True, text=True, check=False, timeout=90, env=environment,
        )  # fmt: skip
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        return done.stderr + done.stdout

    def get(self, *arguments: str) -> Any:
        """An object or a list, as values."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def direct(self) -> Direct:
        """A connection of its own, for a thread that measures."""
        trust = ssl.create_default_context(cafile=str(self.folder / "pki" / "apiserver.crt"))
        return Direct(http.client.HTTPSConnection("127.0.0.1", self._port, context=trust))

    def call(self, method: str, path: str, body: str | None = None) -> Any:
        """The API itself, for who measures: kubectl takes a tenth of a second to start. A PATCH merges."""
        if self._direct is None:
            self._direct = self.direct()
        return self._direct.call(method, path, body)

    def apply(self, body: Any, *more: str, manager: str = "tests") -> str:
        """Server-side apply; `--dry-run=server` as one of *more* changes nothing."""
        return self.kubectl(
            "apply", "--server-side", "--field-manager", manager, "-f", "-", *more, body=body
        )

    def tried(self, path: str, body: Any) -> str:
        """
        Server-side apply of one object at *path* that changes nothing, without kubectl: for many rows.

        Returns:
            the warnings.

        Raises:
            Refused: with what the API server said.
        """
        certificate = ssl.create_default_context(cafile=str(self.folder / "pki" / "apiserver.crt"))
        request = urllib.request.Request(
            f"{self.url}{path}?fieldManager=tests&force=true&dryRun=All&fieldValidation=Strict",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {_ADMIN_TOKEN}", "Content-Type": "application/apply-patch+yaml"},
            method="PATCH",
        )  # fmt: skip
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=certificate)
        )
        try:
            with opener.open(request, timeout=60) as answer:
                return "\n".join(answer.headers.get_all("Warning") or ())
        except urllib.error.HTTPError as exc:
            with exc:
                raise Refused(str(json.loads(exc.read())["message"])) from None

    def define(self, crd: Any) -> None:
        """Apply a CustomResourceDefinition, and wait until kubectl can name its kind and explain it."""
        self.apply(crd, "--force-conflicts")  # another test's Helm may have brought it
        self.until("discovery", "kube-apiserver", "explain", f"{crd['spec']['names']['plural']}.spec")  # fmt: skip
