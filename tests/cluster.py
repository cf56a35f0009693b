"""
`python3 tests/cluster.py` brings up a Kubernetes cluster of one node on this machine, with Penstock and a tiny model in
it, says how to use it, and takes it away at Ctrl-C. Needs root on Linux; nothing is installed but Debian packages that
it names. The first time all programs are built from their sources, which takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import kube_cluster

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Bring it up, wait, take it away."""
    import kube_cluster
    import kube_release
    import parts

    kube_cluster.prepare()
    kube_release.prepare()
    started = time.monotonic()
    with kube_cluster.Cluster() as cluster:
        parts.say(
            f"the cluster is up ({time.monotonic() - started:.0f} s); installing Penstock ..."
        )
        kube_release.install(cluster, "--set", "test.model=tiny", "--set", "test.namespace=default")
        kube_release.shelve(cluster, tiny=kube_release.model())
        cluster.volumes(8)
        cluster.apply(kube_release.local_model("default", "tiny"))
        cluster.kubectl("wait", "lm/tiny", "--for=condition=Ready", "--timeout=85s")
        print(_how(cluster, time.monotonic() - started), flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("\nTaking it away ...", flush=True)


def _how(cluster: kube_cluster.Cluster, took_s: float) -> str:
    import kube_build
    import kube_release

    tools = {kube_build.program(name).parent for name in ("kubectl", "helm")}
    address = cluster.address("default", "tiny")
    return f"""
Ready after {took_s:.0f} s. In another shell of this machine, as root:

  export KUBECONFIG={cluster.kubeconfig} PATH={os.pathsep.join(map(str, tools))}:$PATH
  kubectl get localmodels
  curl {address}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "tiny", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 16}}'
  helm test penstock -n {kube_release.NAMESPACE}

Another model: hf://tests/models/tiny.gguf with the mirror {kube_release.LIBRARY}. Ctrl-C takes everything away.
"""


def _guarded() -> int:
    """What is missing is said in a sentence."""
    import pytest

    try:
        main()
    except KeyboardInterrupt:
        return 130
    except pytest.skip.Exception as exc:
        print(exc, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    python = runpy.run_path(str(ROOT / ".ci" / "bootstrap.py"))["ensure_environment"]()
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    sys.exit(_guarded())
