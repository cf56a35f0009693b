"""
The admin token of each model: made from the operator's master key and the object's identity, so it is never read back
from the cluster. A model that is made again under its old name gets another one.
"""

from __future__ import annotations

import hashlib
import hmac

from penstock.errors import PenstockError
from penstock_operator.seen import Key

LEAST_BYTES = 16


class NoMasterKey(PenstockError):
    """The master key is missing or too short to be one."""

    exit_code = 2


def master_key(content: bytes) -> bytes:
    """The key in the file's *content*, without the white space around it."""
    key = content.strip()
    if len(key) < LEAST_BYTES:
        raise NoMasterKey(
            f"The master key has {len(key)} bytes; it needs {LEAST_BYTES} or more: "
            "`openssl rand -hex 32` makes one."
        )
    return key


def token(master: bytes, key: Key, uid: str) -> str:
    """HMAC-SHA256 of namespace, name and uid, in hexadecimal."""
    said = f"{key.namespace}/{key.name}/{uid}".encode()
    return hmac.new(master, said, hashlib.sha256).hexdigest()
