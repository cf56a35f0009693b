"""
`python3 shared COMMAND ...` runs `penstock COMMAND ...` from a fresh checkout: what it needs is installed
into `.venv` on the first run. `python3 shared demo` is the place to begin.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

bootstrap = runpy.run_path(str(Path(__file__).resolve().parent.parent / ".ci" / "bootstrap.py"))

if __name__ == "__main__":
    python = bootstrap["ensure_environment"]()
    command = [str(python), "-m", "penstock", *(sys.argv[1:] or ["demo"])]
    if os.name == "posix":
        # The very process goes on as the command, so that signals reach it.
        os.execv(command[0], command)  # noqa: S606
    try:
        sys.exit(subprocess.call(command))
    except KeyboardInterrupt:
        sys.exit(130)
