"""What the machine has: recorded trees of /proc and /sys, and this machine itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.adapters.machine import cgroup_memory, in_container, read_machine

GIB = 1024**3


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, (None, None), id="no cgroups at all"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, (None, None), id="v2 without a limit"),
        pytest.param(
            {"proc/self/cgroup": "0::/pod/c\n", f"{V2}/pod/c/memory.max": f"{4 * GIB}", f"{V2}/pod/c/memory.current": f"{GIB}"},
            (4 * GIB, GIB), id="v2 with a limit"),
        pytest.param(
            {"proc/self/cgroup": "0::/pod/c\n", f"{V2}/pod/c/memory.max": "max", f"{V2}/pod/memory.max": f"{2 * GIB}",
             f"{V2}/pod/memory.current": f"{GIB}", f"{V2}/pod/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"},
            (2 * GIB, GIB // 2), id="v2: the parent's limit, page cache aside"),
        pytest.param(
            {"proc/self/cgroup": "9:memory:/docker/x\n1:cpu:/\n", f"{V1}/docker/x/memory.limit_in_bytes": f"{3 * GIB}",
             f"{V1}/docker/x/memory.usage_in_bytes": f"{2 * GIB}",
             f"{V1}/docker/x/memory.stat": f"total_inactive_file {GIB}\n"},
            (3 * GIB, GIB), id="v1 with a limit"),
        pytest.param(
            {"proc/self/cgroup": "9:memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712"},
            (None, None), id="v1 without a limit"),
        pytest.param({"proc/self/cgroup": "garbage\n::\n0::/x\n", f"{V2}/x/memory.max": "many"}, (None, None), id="garbage"),
    ],
)  # fmt: skip
def test_cgroup_limits(
    tmp_path: Path, files: dict[str, str], expected: tuple[int | None, int | None]
) -> None:
    """The tightest limit of our own group and all above it."""
    assert cgroup_memory(tree(tmp_path, files)) == expected


def test_the_limit_counts_and_not_the_host(tmp_path: Path) -> None:
    """A pod of 64 MiB is not a machine of 24 GiB."""
    small = 64 * 1024**2
    root = tree(tmp_path, {"proc/self/cgroup": "0::/c\n", f"{V2}/c/memory.max": f"{small}",
                           f"{V2}/c/memory.current": f"{small // 2}"})  # fmt: skip
    seen = read_machine(root)
    assert seen.total_bytes == seen.limit_bytes == small
    assert seen.available_bytes <= small // 2
    assert seen.used_share >= 0.5


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/1/cgroup": "0::/init.scope\n"}, False), ({".dockerenv": ""}, True), ({"run/.containerenv": ""}, True),
        ({"proc/1/cgroup": "0::/kubepods/pod1/c\n"}, True), ({"proc/1/cgroup": "1:x:/docker/abc\n"}, True),
    ],
)  # fmt: skip
def test_containers_are_noticed(
    tmp_path: Path, files: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the marks that Docker, Podman and Kubernetes leave."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert in_container(tree(tmp_path, files)) is expected


def test_amd_gpus(tmp_path: Path) -> None:
    """By the kernel's own files."""
    card = "sys/class/drm/card0/device"
    root = tree(tmp_path, {f"{card}/mem_info_vram_total": f"{16 * GIB}", f"{card}/mem_info_vram_used": f"{GIB}",
                           f"{card}/gpu_busy_percent": "50"})  # fmt: skip
    (gpu,) = [g for g in read_machine(root).gpus if g.total_bytes == 16 * GIB]
    assert (gpu.free_bytes, gpu.utilisation) == (15 * GIB, 0.5)


def test_this_machine() -> None:
    """Whatever it is: no GPU is no error, and the numbers hang together."""
    seen = read_machine()
    assert 0 < seen.available_bytes <= seen.total_bytes
    assert 0 <= seen.used_share <= 1
    assert seen.cpu_count >= 1
