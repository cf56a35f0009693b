"""Names that the resource, its children and the chart share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GROUP = "penstock.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LocalModel"
PLURAL = "localmodels"
SINGULAR = "localmodel"
SHORT = "lm"
CATEGORY = "penstock"
MOST_NAME_LENGTH = 40
"""Names of children append to it, and a label holds 63 characters."""
NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""Services are called after it: RFC 1035, which Kubernetes before 1.34 holds them to."""
TOO_LONG = f"the name has at most {MOST_NAME_LENGTH} characters: names of its children append to it"
MISNAMED = (
    "the name begins with a letter and has only lower-case letters, digits and dashes, since Services are called after "
    "it: qwen3-6, and not qwen3.6 or 3b"
)

PORT = 8080
"""Of servers and of gateways."""

MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY}=penstock"
"""Chooses all that is made for LocalModels."""
APP = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
MODEL = "penstock.dev/model"
TEMPLATE_HASH = "penstock.dev/template-hash"
ASKED_HASH = "penstock.dev/asked-hash"
APPLIED = "penstock.dev/applied-template"
STEPS_DOWN = "penstock.dev/steps-down"

GATEWAY, SERVER, WEIGHTS = "gateway", "server", "weights"


class Children(NamedTuple):
    """How the children of one LocalModel are called."""

    gateway: str
    server: str
    weights: str
    config: str
    admin: str


def children(name: str) -> Children:
    """The names of all children of the model *name*."""
    return Children(name, f"{name}-server", f"{name}-weights", f"{name}-gateway", f"{name}-admin")


def selector(name: str, component: str) -> dict[str, str]:
    """The labels that choose the pods of *component*; they never change, a Deployment's are immutable."""
    return {MODEL: name, COMPONENT: component}


def labels(name: str, component: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """All labels of a child; ours win over *more*."""
    return {
        **(more or {}),
        MANAGED_BY: "penstock",
        APP: "penstock",
        INSTANCE: name,
        **selector(name, component),
    }
