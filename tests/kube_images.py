"""
Container images that tests make themselves, as docker archives in the cache; no registry is asked.

`pause()` is the image that holds a pod's namespaces: one static program that waits. `penstock()` is the product's own,
built by buildah from the Dockerfile on a base that mmdebstrap makes, since the default base is in a registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import parts

ROOT = Path(__file__).parent.parent
PENSTOCK = "ghcr.io/penstock/penstock:0.1.0"
_BASE = (
    "--variant=minbase", "--include=python3,libgomp1",
    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*", "bookworm",
)  # fmt: skip
_PYTHON = "3.11"  # of that Debian
_GLIBC = (
    36,
    35,
    34,
    28,
    27,
    26,
    24,
    17,
    12,
    5,
)  # it has 2.36; wheels name the oldest that they bear
PAUSE = "penstock.local/pause:1"
_PAUSE_SOURCE = """\
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
    signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def pause() -> Path:
    """The archive of the image `PAUSE`."""
    digest = hashlib.sha256(_PAUSE_SOURCE.encode()).hexdigest()[:12]
    archive = parts.CACHE / "images" / f"pause-{digest}.tar"
    if archive.is_file():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with parts.alone(archive.with_suffix(".lock")):
        if not archive.is_file():
            if shutil.which("gcc") is None:
                parts.need_packages(["gcc", "libc6-dev"])
            with tempfile.TemporaryDirectory(prefix="penstock-pause-") as name:
                source, program = Path(name) / "pause.c", Path(name) / "pause"
                source.write_text(_PAUSE_SOURCE)
                compiler = ["gcc", "-Os", "-static", "-s", "-o", str(program), str(source)]
                subprocess.run(compiler, check=True, capture_output=True)
                _archive(archive, PAUSE, {"pause": program.read_bytes()}, ["/pause"])
    return archive


def _archive(target: Path, name: str, files: dict[str, bytes], command: list[str]) -> None:
    """An image of one layer, whole or not at all."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": command, "User": "65532"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest: list[dict[str, Any]] = [
        {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}
    ]
    partial = target.with_suffix(".part")
    with tarfile.open(partial, "w") as tar:
        for path, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    partial.replace(target)


# The product's own image


def penstock() -> Path:
    """
    The archive of the image `PENSTOCK`, made from the Dockerfile and what it takes from the checkout.

    The base image and the packages are made once; after a change of the source only the last layer is built again.
    """
    digest = _digest(*_sources())
    archive = parts.CACHE / "images" / f"penstock-{digest}.tar"
    if archive.is_file():
        archive.touch()
        return archive
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("platform: building an image needs root on Linux")
    parts.need_packages([name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None])
    archive.parent.mkdir(parents=True, exist_ok=True)
    with parts.alone(archive.parent / "penstock.lock"):
        if not archive.is_file():
            _forget(archive.parent)
            _build(archive)
    return archive


def _build(archive: Path) -> None:
    started = time.monotonic()
    base, wheels = _base(), _wheels()
    installer = next(wheels.glob("pip-*.whl")).name
    arguments = {
        "BASE": base,
        "PIP": f"python3 /wheels/{installer}/pip",
        "PIP_INDEX_URL": "none",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/wheels",
    }
    parts.say("building the image of Penstock ...")
    _buildah(
        "bud", "--quiet", "--layers", "--pull-never", f"--volume={wheels}:/wheels:ro", "--tag", PENSTOCK,
        *(f"--build-arg={name}={value}" for name, value in arguments.items()), str(ROOT),
    )  # fmt: skip
    partial = archive.with_suffix(".part")
    partial.unlink(missing_ok=True)
    _buildah("push", "--quiet", PENSTOCK, f"docker-archive:{partial}:{PENSTOCK}")
    partial.replace(archive)
    size_mb = archive.stat().st_size / 1e6
    parts.say(f"the image is built: {size_mb:.0f} MB, {time.monotonic() - started:.0f} s")


def _sources() -> list[Path]:
    """What the Dockerfile is given; .dockerignore lets the same in."""
    single = [".ci/locked.py", ".dockerignore", "Dockerfile", "README.md", "pyproject.toml", "requirements.lock"]  # fmt: skip
    found = [ROOT / name for name in single]
    for folder in ("operator", "shared", "tray"):
        files = sorted((ROOT / folder).rglob("*"))
        found += [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return found


def _digest(*files: Path, more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _base() -> str:
    """A Debian with Python and nothing else, in the store of images; in its place a registry's could stand."""
    name = f"localhost/penstock-base:{hashlib.sha256(' '.join(_BASE).encode()).hexdigest()[:12]}"
    if name in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return name
    parts.say("making the base image by mmdebstrap; this takes half a minute ...")
    with tempfile.TemporaryDirectory(prefix="penstock-base-") as folder:
        tar = f"{folder}/base.tar"
        _run(["mmdebstrap", "--quiet", *_BASE, tar])
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", "--quiet", container, tar, "/")
            _buildah("commit", "--quiet", container, name)
        finally:
            _buildah("rm", container)
    return name


def _wheels() -> Path:
    """The packages that the lock pins, and pip: fetched here, where the user's pip knows where from."""
    script = ROOT / ".ci" / "locked.py"
    asked = (["--extra", "operator", "xllamacpp"], ["--only", "hatchling"])
    needed = "".join(_run([sys.executable, str(script), *one]) for one in asked)
    folder = parts.CACHE / "wheels" / hashlib.sha256(needed.encode()).hexdigest()[:12]
    if folder.is_dir():
        return folder
    base = getattr(sys, "_base_executable", None) or sys.executable
    parts.say("fetching the packages of the image ...")
    with tempfile.TemporaryDirectory(dir=parts.CACHE, prefix="wheels-") as name:
        (Path(name) / "needed.txt").write_text(needed)
        download = [
            *(base, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name),
            *("--only-binary=:all:", f"--python-version={_PYTHON}"),
            *(f"--platform=manylinux_2_{minor}_{os.uname().machine}" for minor in _GLIBC),
            *("--platform=manylinux2014_x86_64",),
        ]
        _run([*download, "--require-hashes", "-r", f"{name}/needed.txt"])
        _run([*download, "pip"])
        folder.parent.mkdir(exist_ok=True)
        shutil.copytree(name, folder.with_suffix(".part"), dirs_exist_ok=True)
    folder.with_suffix(".part").replace(folder)
    return folder


def _buildah(*arguments: str) -> str:
    """Run it with a store of its own in the cache."""
    store = parts.CACHE / "containers"
    command = ["buildah", "--root", f"{store}/store", "--runroot", f"{store}/run", "--storage-driver", "overlay"]  # fmt: skip
    return _run([*command, *arguments], BUILDAH_ISOLATION="chroot")


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        parts.missing(f"`{command[0]}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def _forget(folder: Path, keep: int = 4) -> None:
    """Keep the cache small: images of earlier sources go."""
    files = sorted(folder.glob("penstock-*.tar"), key=lambda file: file.stat().st_mtime)
    for file in files[:-keep]:
        file.unlink(missing_ok=True)
