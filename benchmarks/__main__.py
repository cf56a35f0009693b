"""
`python3 benchmarks` measures the gateway beside nginx and the obvious FastAPI + httpx proxy, all in one run.

    python3 benchmarks            print the table
    python3 benchmarks --write    and put it into benchmarks/README.md
    python3 benchmarks --quick    few requests; fails when a ratio is three times its aim

    python3 benchmarks prefix       how warm the prefix stays over long conversations (prefix.py)
    python3 benchmarks dialects     what each dialect costs beside OpenAI's (dialects.py)
    python3 benchmarks overload     what an overloaded server does to its clients (overload.py)
    python3 benchmarks patience     how real agents bear a prefill of more than a minute (patience.py)
    python3 benchmarks marks        which watermarks are best (marks.py)
    python3 benchmarks page         what the dashboard costs in a browser (page.py)
    python3 benchmarks soak_context whether memory stays flat (soak_context.py)
    python3 benchmarks operator_scale  what a thousand LocalModels cost the operator (operator_scale.py)
    python3 benchmarks operator_outage five minutes without an API server (operator_outage.py)

The gateways run on one core, the load and the upstream (both C, `load/`) on another. Compare ratios within a
run, never microseconds between runs: machines differ and are noisy.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    bootstrap = runpy.run_path(str(ROOT / ".ci" / "bootstrap.py"))
    python = bootstrap["ensure_environment"]()
    words = sys.argv[1:]
    name = words.pop(0) if words and not words[0].startswith("-") else "measure"
    script = Path(__file__).with_name(f"{name}.py")
    if not script.is_file():
        sys.exit(f"benchmarks: there is no {script.name}")
    sys.exit(subprocess.call([str(python), str(script), *words]))
