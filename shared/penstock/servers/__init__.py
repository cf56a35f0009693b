"""
The model servers that Penstock knows, one file per kind.

Adding a server means adding one file that declares a `ServerSpec` (see `base`), its line in `SPECS`, and
its recorded answers under `tests/`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from penstock.domain.upstream import ServerKind
from penstock.servers import (
    dockermr,
    generic,
    jan,
    koboldcpp,
    lemonade,
    llamacpp,
    lmstudio,
    localai,
    mlx,
    ollama,
    sglang,
    tabbyapi,
    textgen,
    tgi,
    vllm,
)
from penstock.servers.base import ServerSpec

# Most specific first: who answers other servers' paths stands before those whose paths they are.
_ALL = (
    koboldcpp, tabbyapi, localai, lemonade, dockermr, llamacpp, sglang, vllm, tgi, lmstudio, textgen,
    jan, ollama, mlx, generic,
)  # fmt: skip

SPECS: Mapping[ServerKind, ServerSpec] = MappingProxyType(
    {module.SPEC.kind: module.SPEC for module in _ALL}
)


def spec(kind: ServerKind) -> ServerSpec:
    """The file of one kind."""
    return SPECS[kind]
