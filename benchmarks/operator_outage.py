"""
An API server that is away for five minutes, and two operators that bear it: one is refused, one is answered by 503.

    python3 benchmarks operator_outage              five minutes
    python3 benchmarks operator_outage --seconds 90 as the tests do it

Objects come and go when it is back, and its past is forgotten before the second operator hears of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kube_outage import Outage


def main() -> None:
    """Run it and say what was seen."""
    words = argparse.ArgumentParser(description="An API server that is away for five minutes.")
    words.add_argument("--seconds", type=float, default=300.0)
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        outage = Outage(Path(folder), stack, chosen.seconds)
        print(f"away for {chosen.seconds:.0f} s ...", flush=True)
        outage.over()
        took = outage.check()
        print(
            f"Both operators answered their probes all the time and were in step {took:.0f} s after the return."
        )


if __name__ == "__main__":
    main()
