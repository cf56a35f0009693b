"""
Is it local, and what is it? Decisions only; `penstock.adapters.probe` asks the questions.

`address` judges a URL, `fingerprint` recognises a server by its answers, `places` lists where to look.
"""

from penstock.detection.address import judge, normalise_url
from penstock.detection.fingerprint import (
    Recognition,
    fingerprint_probes,
    is_penstock,
    recognise,
)
from penstock.detection.places import Place, places
from penstock.detection.relay import relay_evidence

__all__ = [
    "Place",
    "Recognition",
    "fingerprint_probes",
    "is_penstock",
    "judge",
    "normalise_url",
    "places",
    "recognise",
    "relay_evidence",
]
