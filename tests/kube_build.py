"""
The programs of a Kubernetes cluster and Helm, built once from their Go modules.

They lie in the cache of tests/parts.py, outside the checkout, so that all worktrees share them. Cold the control
plane takes about six minutes on two cores and the rest five; with Go's own build cache warm each takes about a
minute. Where the environment names ready ones by `KUBEBUILDER_ASSETS`, as Go's envtest has it, those are used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import parts

KUBERNETES = (
    os.environ.get("PENSTOCK_TEST_KUBERNETES") or "1.37.2"
)  # an older one is for a run by hand
_STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_RECIPE = "1"  # raise it when the way of building changes: the programs are then built anew


@dataclass(frozen=True, slots=True)
class Module:
    """
    A Go module, and what is built from it.

    Attributes:
        name: for people, and of the folder in the cache.
        programs: packages by the name of the program.
        takes: how long it takes cold on two cores, in words.
        flags: more for the linker.
        tags: Go's build tags.
        cgo: whether it holds C.
        replaced: from the folder of the module, what its go.mod replaces by folders that it does not ship.
    """

    name: str
    path: str
    version: str
    programs: Mapping[str, str]
    takes: str
    flags: str = ""
    tags: str = ""
    cgo: bool = False
    replaced: Callable[[Path], Mapping[str, str]] = lambda _folder: {}

    @property
    def folder(self) -> Path:
        """Where its programs lie."""
        return parts.CACHE / f"{self.name}-{self.version}-{_RECIPE}"


def _staging(folder: Path) -> dict[str, str]:
    """Kubernetes replaces its staging modules by folders; their releases have the same content."""
    text = (folder / "go.mod").read_text("utf-8")
    names = re.findall(r"^\s*(\S+) => \./staging/", text, re.MULTILINE)
    return {name: f"v0.{KUBERNETES.partition('.')[2]}" for name in names}


def _stamp() -> str:
    """What makes the programs say their version; without it that is v0.0.0, which clients refuse."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X {at}.{name}={value}" for at in _STAMPED for name, value in values.items())


def _commands(root: str, *names: str) -> dict[str, str]:
    """Packages below *root* by the names of their programs."""
    return {name: f"{root}/{name}" for name in names}


def _kubernetes(name: str, takes: str, *programs: str) -> Module:
    packages = _commands("k8s.io/kubernetes/cmd", *programs)
    path = "k8s.io/kubernetes"
    return Module(name, path, KUBERNETES, packages, takes, _stamp(), replaced=_staging)


_CONTAINERD = "github.com/containerd/containerd/v2"

MODULES = (
    _kubernetes(
        "kubernetes",
        "about six minutes",
        *("kube-apiserver", "kube-controller-manager", "kubectl"),
    ),
    _kubernetes(
        "kubernetes-node",
        "a minute after the control plane",
        *("kube-scheduler", "kubelet", "kube-proxy"),
    ),
    Module(
        "etcd",
        "go.etcd.io/etcd/server/v3",
        "3.7.3",
        {"etcd": "go.etcd.io/etcd/server/v3"},
        "half a minute",
    ),
    Module(
        "containerd",
        _CONTAINERD,
        "2.4.2",
        _commands(f"{_CONTAINERD}/cmd", "containerd", "ctr", "containerd-shim-runc-v2"),
        "a minute",
    ),
    Module(
        "runc",
        "github.com/opencontainers/runc",
        "1.5.1",
        {"runc": "github.com/opencontainers/runc"},
        "a quarter of a minute",
        tags="seccomp",
        cgo=True,
    ),
    Module(
        "coredns",
        "github.com/coredns/coredns",
        "1.15.0",
        {"coredns": "github.com/coredns/coredns"},
        "a minute and a half",
    ),
    Module(
        "helm",
        "helm.sh/helm/v4",
        "4.3.1",
        _commands("helm.sh/helm/v4/cmd", "helm"),
        "a minute and a half",
    ),
    Module(
        "helm3",
        "helm.sh/helm/v3",
        "3.22.0",
        {"helm3": "helm.sh/helm/v3/cmd/helm"},
        "a minute and a half",
    ),
)


def published(path: str, version: str, file: str) -> str:
    """The text of a file that the Go module *path* ships, for example a CustomResourceDefinition."""
    if shutil.which("go") is None:
        parts.missing(
            f"{file} comes from the Go module {path}: that needs Go 1.26 (https://go.dev/dl)"
        )
    with tempfile.TemporaryDirectory(prefix="penstock-module-") as work:
        told = parts.go(path, Path(work), "mod", "download", "-json", f"{path}@v{version}")
    return (Path(json.loads(told)["Dir"]) / file).read_text("utf-8")


def program(name: str) -> Path:
    """The program *name*: from `KUBEBUILDER_ASSETS`, from the cache, or built now."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and (Path(given) / name).is_file():
        return Path(given) / name
    module = next(one for one in MODULES if name in one.programs)
    binary = module.folder / name
    if not binary.is_file():
        if not sys.platform.startswith("linux"):
            parts.missing(
                f"{name} is built here on Linux only; name a folder by KUBEBUILDER_ASSETS"
            )
        parts.CACHE.mkdir(parents=True, exist_ok=True)
        with parts.alone(parts.CACHE / f"{module.name}.lock"):
            if not binary.is_file():
                _build(module)
    return binary


def _build(module: Module) -> None:
    """Build all programs of *module*; each appears in the cache whole or not at all."""
    if shutil.which("go") is None:
        parts.missing(f"building {module.name} needs Go 1.26 or newer (https://go.dev/dl)")
    started = time.monotonic()
    what = f"{module.name} {module.version}"
    parts.say(f"building {what} once; this takes {module.takes} on two cores ...")
    with tempfile.TemporaryDirectory(prefix=f"penstock-{module.name}-build-") as name:
        work = Path(name)
        head = (
            f"module penstock.dev/testparts/{module.name}\n\ngo 1.26.0\n\n"
            f"require {module.path} v{module.version}\n"
        )
        (work / "go.mod").write_text(head, "utf-8")
        # The folder is asked for while go.mod is plain: what is replaced is known only from it.
        parts.go(what, work, "mod", "download", module.path)
        source = parts.go(what, work, "list", "-m", "-f", "{{.Dir}}", module.path).strip()
        tools = "".join(f"tool {package}\n" for package in module.programs.values())
        replaced = "".join(
            f"replace {other} => {other} {version}\n"
            for other, version in module.replaced(Path(source)).items()
        )
        (work / "go.mod").write_text(f"{head}\n{replaced}\n{tools}", "utf-8")
        parts.go(what, work, "mod", "tidy")
        built = work / "built"
        built.mkdir()
        for own_name, package in module.programs.items():
            flags = f"-s -w {module.flags}"
            output = str(built / own_name)
            parts.go(
                what, work, "build", "-trimpath", "-tags", module.tags, "-ldflags", flags,
                "-o", output, package, CGO_ENABLED="1" if module.cgo else "0",
            )  # fmt: skip
        module.folder.mkdir(exist_ok=True)
        for one in built.iterdir():
            partial = module.folder / f"{one.name}.part"
            shutil.copy2(one, partial)
            partial.replace(module.folder / one.name)
    parts.say(f"{what} is built ({time.monotonic() - started:.0f} s)")
