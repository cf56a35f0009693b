"""
What people install: the wheel, alone, in an environment that has never seen the sources.

The dependencies are lent by the development environment (a `.pth` file lends its packages but not its
editable installs), so nothing is downloaded here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import parts
from tree import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of an environment with the wheel in it."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    [wheel] = built.glob("*.whl")
    base = getattr(sys, "_base_executable", sys.executable)  # has pip; a `.venv` has none
    done = subprocess.run(
        [base, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", str(wheel)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "lent.pth").write_text("\n".join(sorted(lent)) + "\n", "utf-8")
    return scripts


def run(scripts: Path, *command: str, cwd: Path) -> str:
    done = subprocess.run(
        [str(scripts / command[0]), *command[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=outside(cwd),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outside(home: Path) -> dict[str, str]:
    """An environment that knows nothing of the checkout, with a home of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("PENSTOCK_", "LOCAL_MODEL_", "XDG_"))
    }
    runtime = home / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {**kept, "HOME": str(home), "APPDATA": str(home), "XDG_RUNTIME_DIR": str(runtime)}


def test_wheel_holds_the_packages_and_nothing_else(built: Path) -> None:
    """Three packages with their data files, no tests, no folder of the checkout."""
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    info = f"penstock-{VERSION}.dist-info"
    assert tops == {"penstock", "penstock_operator", "penstock_tray", info}
    assert "penstock/py.typed" in names
    assert "penstock/limits/cloud_windows.json" in names
    assert f"{info}/licenses/LICENSE" in names
    assert not [name for name in names if "__pycache__" in name or "/test_" in name]


def test_sdist_holds_what_is_needed_to_check_it(built: Path) -> None:
    """Sources, tests, lock and licence; no environment and no cache."""
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml", "requirements.lock", "LICENSE", "README.md", "CHANGELOG.md",
        ".ci/bootstrap.py", "shared/penstock/__main__.py", "shared/__main__.py",
        "tests/__main__.py", "tests/conftest.py", "operator/penstock_operator/__init__.py",
        "tray/penstock_tray/__init__.py",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".venv") or "__pycache__" in name]


def test_wheel_works_without_the_sources(installed: Path, tmp_path: Path) -> None:
    """From the wheel alone the three packages import, in their version, from the environment."""
    code = (
        "import penstock, penstock_operator, penstock_tray;"
        "print(penstock.__version__, penstock.__file__)"
    )
    version, place = run(installed, "python", "-c", code, cwd=tmp_path).split(maxsplit=1)
    assert version == VERSION
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert VERSION in run(installed, "penstock", "version", cwd=tmp_path)
    assert "serve" in run(installed, "python", "-m", "penstock", "--help", cwd=tmp_path)


def test_gateway_starts_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """`penstock serve` from the wheel listens, answers, and ends with code 0 when asked to."""
    log = tmp_path / "log"
    port = parts.free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        gateway = subprocess.Popen(
            [str(installed / "penstock"), "serve", "--port", str(port),
             "--upstream", f"http://127.0.0.1:{parts.free_port()}"],
            cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT, env=outside(tmp_path),
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not parts.answers(f"{url}/healthz"):
            assert gateway.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        assert parts.fetch(f"{url}/penstock/status")["schema"] == 1
        run(installed, "penstock", "stop", "--port", str(port), cwd=tmp_path)
        assert gateway.wait(20) == 0, log.read_text("utf-8")
    finally:
        if gateway.poll() is None:
            gateway.kill()
            gateway.wait()


def test_missing_extra_is_one_sentence(installed: Path, tmp_path: Path) -> None:
    """Without the extra `embedded` the command names what installs it, without a traceback."""
    code = (
        "import sys; sys.modules['xllamacpp'] = None; sys.argv = ['penstock', 'llama-server', 'm'];"
        "from penstock.__main__ import main; main()"
    )
    done = subprocess.run(
        [str(installed / "python"), "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=outside(tmp_path),
    )
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert "pip install 'penstock[embedded]'" in sentence
