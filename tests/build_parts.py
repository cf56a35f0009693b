"""
Builds and installs what the tests need before they run: programs from Go modules, images, Debian's packages.

The tests would do it themselves on first use, but a build takes all cores for minutes, and the tests that run beside it
would wait for theirs. What is missing is only told here; the tests that need it say so again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest

import agents
import browsers
import desktops
import kube_build
import kube_cluster
import kube_images
import parts


def main() -> None:
    """Build all that can be built here."""
    steps: list[Callable[[], object]] = [
        parts.ollama_binary,
        browsers.need,
        desktops.need,
        kube_cluster.prepare,
        *(partial(kube_build.program, next(iter(one.programs))) for one in kube_build.MODULES),
        kube_images.penstock,
        *(partial(agents.installed, one) for one in agents.AGENTS),
    ]
    for step in steps:
        try:
            step()
        except pytest.skip.Exception as exc:
            print(f"test parts: {exc}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
