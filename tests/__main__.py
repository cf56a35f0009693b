"""
`python3 tests` checks everything, from nothing but Python and pip: format, lint, types, import contracts; it builds the
parts that the tests need, then runs them in processes side by side, since they wait for real servers most of the time.
`python3 tests ARGUMENTS ...` hands the arguments to pytest and runs the tests only.
"""

import runpy
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
bootstrap = runpy.run_path(str(ROOT / ".ci" / "bootstrap.py"))


def _cache(platform: str) -> list[str]:
    """A cache of its own: mypy throws away what was made for another platform."""
    return ["--cache-dir", str(ROOT / ".mypy_cache" / platform)]


def main(arguments: list[str]) -> int:
    """Run the parts one after the other; pytest last, so that its closing line closes the output."""
    python = bootstrap["ensure_environment"]()
    scripts = python.parent
    parts = [
        ("format", [str(scripts / "ruff"), "format", "--check", "."]),
        ("lint", [str(scripts / "ruff"), "check", "."]),
        ("types", [str(python), "-m", "mypy"]),
        # The same with what those platforms have: an unguarded SIGHUP or `fcntl` is found here.
        ("types on Windows", [str(python), "-m", "mypy", "--platform=win32", *_cache("win32")]),
        ("types on macOS", [str(python), "-m", "mypy", "--platform=darwin", *_cache("darwin")]),
        ("import contracts", [str(scripts / "lint-imports"), "--no-cache"]),
    ]
    failed = []
    if not arguments:
        for name, command in parts:
            started = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
            verdict = "ok" if done.returncode == 0 else "FAILED"
            print(f"{name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
            if done.returncode:
                failed.append(name)
                print(done.stdout, done.stderr, sep="\n", flush=True)
        subprocess.run([str(python), str(ROOT / "tests" / "build_parts.py")], cwd=ROOT, check=True)
    # A file's tests share its servers: they stay together.
    how = arguments or ["-n", "3", "--dist", "loadfile"]
    tests = subprocess.call([str(python), "-m", "pytest", *how], cwd=ROOT)
    if failed:
        print(f"penstock: failed before the tests: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else tests


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
