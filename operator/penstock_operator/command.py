"""
`penstock operator`, also `python -m penstock_operator`. What it needs beyond the command line is imported when it runs,
so that `penstock --help` costs nothing and works without the extra `operator`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from penstock import __version__
from penstock.errors import MissingPart

IMAGE = f"ghcr.io/penstock/penstock:{__version__}"


@click.command("operator")
@click.option("--kubeconfig", metavar="FILE", help="By default the pod's own account, else yours.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Watch this namespace; may be given several times. Default: all.",
)
@click.option(
    "--master-key",
    metavar="FILE",
    default="/etc/penstock-operator/master-key",
    show_default=True,
    help="Secret from which each model's admin token is made.",
)
@click.option("--listen-host", default="0.0.0.0", show_default=True, help="For probes and metrics.")  # noqa: S104
@click.option(
    "--listen-port", type=click.IntRange(1, 65535), default=8080, show_default=True,
    help="/healthz, /readyz and /metrics answer here.",
)  # fmt: skip
@click.option(
    "--image",
    envvar="PENSTOCK_IMAGE",
    show_envvar=True,
    help="Image of gateways and fetchers. Default: the one of this release.",
)
@click.option(
    "--admit",
    multiple=True,
    metavar="PEER",
    help="Peer of a NetworkPolicy, as JSON, that reaches every gateway: the operator itself, a scraper. Repeatable.",
)
@click.option(
    "--lease",
    metavar="NAME",
    default="penstock-operator",
    show_default=True,
    help="The Lease by which one of several replicas leads.",
)
def operator(
    kubeconfig: str | None,
    namespaces: tuple[str, ...],
    master_key: str,
    listen_host: str,
    listen_port: int,
    image: str | None,
    admit: tuple[str, ...],
    lease: str,
) -> int:
    """
    Run the Kubernetes operator.

    It makes a model server and a gateway of each LocalModel. It runs in the cluster (the chart) or anywhere with a
    kubeconfig.
    """
    import asyncio
    import logging

    try:
        from penstock_operator.process.running import Choices, run
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in ("kopf", "kubernetes", "aiohttp"):
            raise MissingPart(
                "The operator needs the extra `operator`: pip install 'penstock[operator]'"
            ) from exc
        raise
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("kopf", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # That its watches ended is said once, by `watching`, and without a trace of the stack for each of them.
    for quiet in ("running", "orchestration"):
        logging.getLogger(f"kopf._core.reactor.{quiet}").setLevel(logging.CRITICAL)
    own = os.environ.get("POD_NAMESPACE") or (namespaces[0] if namespaces else "default")
    chosen = Choices(
        kubeconfig=kubeconfig,
        namespaces=tuple(dict.fromkeys(namespaces)),
        master_key=Path(master_key),
        host=listen_host,
        port=listen_port,
        image=image or IMAGE,
        lease=lease,
        admitted=tuple(_peer(one) for one in admit),
        lease_namespace=own,
    )
    asyncio.run(run(chosen))
    return 0


def _peer(text: str) -> dict[str, Any]:
    try:
        peer = json.loads(text)
    except ValueError:
        peer = None
    known = {"podSelector", "namespaceSelector", "ipBlock"}
    if not isinstance(peer, dict) or not peer or not set(peer) <= known:
        raise click.BadParameter(
            f"expected a JSON object with {', '.join(sorted(known))}, as in a NetworkPolicy's `from`; got {text}",
            param_hint="--admit",
        )
    return peer
