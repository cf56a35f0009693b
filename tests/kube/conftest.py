"""Fixtures of tests against a real API server."""

from __future__ import annotations

import pytest

import kube_parts
from penstock_operator.localmodel.crd import crd


@pytest.fixture(scope="session")
def cluster(api_server: kube_parts.ApiServer) -> kube_parts.ApiServer:
    """The API server, which knows LocalModels."""
    api_server.define(crd())
    return api_server


@pytest.fixture(scope="module")
def namespace(cluster: kube_parts.ApiServer) -> str:
    """A namespace of the module's own that admits restricted pods only."""
    level = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
    }
    return cluster.namespace(**level)
