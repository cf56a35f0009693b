"""
What this machine has: memory (with cgroup limits respected), CPUs, GPUs. Reading never raises.

cgroup v2: `memory.max` and `memory.current` of our own group and all above it; v1: `memory.limit_in_bytes`
and `memory.usage_in_bytes` (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU; bytes are None where the driver does not tell, `utilisation` is a share from 0 to 1."""

    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    utilisation: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """
    One look at the machine.

    Attributes:
        total_bytes, available_bytes: memory as far as we may use it: the tighter of machine and cgroup.
        limit_bytes: the cgroup's limit, None without one.
        used_share: 0 to 1, of the tighter one.
        unified_memory: GPU and CPU share their memory (Apple silicon).
        in_container: we run inside a container.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    used_share: float
    cpu_count: int
    gpus: tuple[Gpu, ...]
    unified_memory: bool
    in_container: bool


def read_machine(root: Path = Path("/")) -> Machine:
    """
    Look at the machine.

    Args:
        root: where `proc` and `sys` are; another folder in tests.
    """
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    limit, used = cgroup_memory(root)
    share = 1.0 - available / total if total else 0.0
    if limit is not None and limit < total:
        left = max(0, limit - (used or 0))
        share = max(share, (used or 0) / limit)
        total, available = limit, min(available, left)
    return Machine(
        total_bytes=total,
        available_bytes=available,
        limit_bytes=limit,
        used_share=min(1.0, max(0.0, share)),
        cpu_count=_cpus(root),
        gpus=(*_nvidia(), *_amd(root)),
        unified_memory=platform.system() == "Darwin" and platform.machine() == "arm64",
        in_container=in_container(root),
    )


def available_bytes() -> int:
    """Memory left, as `Machine.available_bytes`, without a look at GPUs."""
    available = int(psutil.virtual_memory().available)
    limit, used = cgroup_memory(Path("/"))
    return available if limit is None else min(available, max(0, limit - (used or 0)))


@lru_cache(maxsize=4)
def in_container(root: Path = Path("/")) -> bool:
    """Whether we run inside a container (Docker, Podman, Kubernetes)."""
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return True
    text = _read(root / "proc/1/cgroup") or ""
    return any(word in text for word in ("/docker/", "/kubepods", "/libpod-", "/lxc/"))


def cgroup_memory(root: Path) -> tuple[int | None, int | None]:
    """
    The tightest memory limit above us and what is used of it, in bytes.

    Page cache that the kernel can take back (`inactive_file`) does not count as used.
    """
    best: tuple[int, int] | None = None
    for group, limit_name, used_name, cache_name in _groups(root):
        limit = _number(group / limit_name)
        if limit is None or limit >= _UNLIMITED:
            continue
        used = _number(group / used_name) or 0
        used = max(0, used - (_stat(group / "memory.stat", cache_name) or 0))
        if best is None or limit - used < best[0] - best[1]:
            best = (limit, used)
    return best if best is not None else (None, None)


def _groups(root: Path) -> list[tuple[Path, str, str, str]]:
    found: list[tuple[Path, str, str, str]] = []
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", "", ""][:3]
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            found += [(folder, *names) for folder in _upwards(base, path)]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += [(folder, *names) for folder in _upwards(base / "memory", path)]
    return found


def _upwards(base: Path, path: str) -> list[Path]:
    folder = base / path.lstrip("/")
    folders = [folder, *folder.parents]
    return [f for f in folders if f == base or base in f.parents]


def _cpus(root: Path) -> int:
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = (_read(root / "sys/fs/cgroup/cpu.max") or "").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        count = min(count, max(1, -(-int(quota[0]) // int(quota[1]))))
    return count


def _nvidia() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    gpus = []
    try:
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            name = pynvml.nvmlDeviceGetName(handle)
            name = name.decode() if isinstance(name, bytes) else str(name)
            total = free = None
            share = None
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                total, free = int(memory.total), int(memory.free)
            except pynvml.NVMLError:
                pass  # unified memory boards (GB10, Jetson) do not tell
            try:
                share = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0
            except pynvml.NVMLError:
                pass
            gpus.append(Gpu(name, total, free, share))
    except pynvml.NVMLError:
        pass
    finally:
        pynvml.nvmlShutdown()
    return tuple(gpus)


def _amd(root: Path) -> tuple[Gpu, ...]:
    """AMD GPUs by the kernel's own files (amdgpu: `mem_info_vram_total`)."""
    gpus = []
    for device in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        total = _number(device / "mem_info_vram_total")
        if total is None:
            continue
        used = _number(device / "mem_info_vram_used")
        busy = _number(device / "gpu_busy_percent")
        gpus.append(
            Gpu(
                _read(device / "product_name") or "AMD GPU",
                total,
                None if used is None else total - used,
                None if busy is None else busy / 100.0,
            )
        )
    return tuple(gpus)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdigit() else None


def _stat(path: Path, name: str) -> int | None:
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None
