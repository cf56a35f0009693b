"""Fixtures for everybody, and the rule that nothing may be skipped unseen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

import kube_parts
import parts


def pytest_configure(config: pytest.Config) -> None:
    """Let long preparations be seen while they run, and judge no law by the clock."""
    # Time limits per example would make a busy machine fail a law that holds.
    # A change is judged by the same examples each time; new ones are looked for wherever people run the tests.
    settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("house")
    capturing = config.pluginmanager.getplugin("capturemanager")
    if capturing is not None:
        parts.past_capturing = capturing.global_and_fixture_disabled


@pytest.fixture
def llamacpp() -> Iterator[Callable[..., parts.LlamaCpp]]:
    """Starts real llama.cpp servers (see `parts.start_llamacpp`) that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *kind, **options: stack.enter_context(parts.start_llamacpp(*kind, **options))


@pytest.fixture
def ollama() -> Iterator[Callable[..., parts.Ollama]]:
    """Starts real Ollama servers (see `parts.start_ollama`) that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *kind, **options: stack.enter_context(parts.start_ollama(*kind, **options))


@pytest.fixture(scope="session")
def api_server() -> Iterator[kube_parts.ApiServer]:
    """A real Kubernetes API server without nodes; each test takes a namespace of its own from it."""
    with kube_parts.ApiServer() as server:
        yield server


def _strict(report: pytest.TestReport | pytest.CollectReport) -> None:
    """
    With `CI` set, a test that was skipped has failed: what is not run there is run nowhere.

    Only a reason that begins with "platform:" is let through: such a test runs on another system.
    """
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    where = report.longrepr
    reason = str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")
    if not reason.startswith("platform:"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, which is a failure in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _strict(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _strict(report)
    return report
