"""Runs a real Helm, 4 or 3, on the chart."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

import kube_build

CHART = Path(__file__).resolve().parents[1] / "charts" / "penstock"
HELMS = ("helm", "helm3")


def helm(
    *arguments: str, program: str = "helm", kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`helm ARGUMENTS`; without *kubeconfig* it knows no cluster."""
    binary = kube_build.program(program)
    home = Path("/nonexistent") if kubeconfig is None else kubeconfig.parent / program
    return subprocess.run(
        [str(binary), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(kubeconfig or "/dev/null"),
        },
    )


def rendered(*arguments: str, program: str = "helm") -> dict[tuple[str, str], dict[str, Any]]:
    """Kind and name -> object, of `helm template`."""
    version = f"--kube-version={kube_build.KUBERNETES}"  # a Helm built by `go build` believes in an old one
    done = helm("template", "penstock", str(CHART), "-n", "system", version, *arguments, program=program)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}
