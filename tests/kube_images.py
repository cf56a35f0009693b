"""
Container images that tests make themselves, as docker archives in the cache; no registry is asked.

`pause()` is the image that holds a pod's namespaces: one static program that waits.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import parts

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
