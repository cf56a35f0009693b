"""`penstock fetch`: a model's file, brought to a folder; what the weights container of a pod runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from penstock.cli.output import EXIT_PROBLEM

_TELL_EVERY_S = 5.0
_MESSAGE_SIGNS = 3_000
"""Kubernetes keeps 4,096 bytes of a termination message."""


@click.command()
@click.argument("uri")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--sha256", help="What the file must be, in hexadecimal.")
@click.option("--hub", envvar="HF_ENDPOINT", help="Mirror that hf:// leads to.")
@click.option("--token-file", type=click.Path(), help="File with the credential; else HF_TOKEN.")
@click.option("--ca-file", type=click.Path(), help="CA bundle for TLS.")
@click.option("--tries", type=click.IntRange(1), default=5, show_default=True)
@click.option("--status-file", type=click.Path(path_type=Path), help="Progress as JSON.")
@click.option("--termination-message", type=click.Path(path_type=Path), help="The end as JSON.")
def fetch(
    uri: str,
    destination: Path,
    sha256: str | None,
    hub: str | None,
    token_file: str | None,
    ca_file: str | None,
    tries: int,
    status_file: Path | None,
    termination_message: Path | None,
) -> int:
    """
    Bring a model's file from hf://ORG/REPO/FILE[@REVISION] or https://... to DESTINATION.

    It goes on where it broke off, checks what it got, and never leaves half a file. With pvc://CLAIM/FILE it
    only checks the file that is at DESTINATION.
    """
    from penstock.adapters import fetching

    told_s = 0.0

    def progress(have: int, size: int | None) -> None:
        nonlocal told_s
        if time.monotonic() - told_s < _TELL_EVERY_S and have != size:
            return
        told_s = time.monotonic()
        click.echo(f"{have} of {size if size is not None else 'unknown'} bytes", err=True)
        if status_file is not None:
            _write(status_file, {"bytes": have, "size": size})

    def failed(why: fetching.FetchFailed, wait_s: float) -> None:
        click.echo(f"{why} It is tried again in {wait_s:.0f} s.", err=True)

    try:
        if uri.startswith("pvc://"):
            found = fetching.verify(destination, sha256)
        else:
            token = os.environ.get("HF_TOKEN")
            if token_file is not None:
                token = _read(token_file)
            access = fetching.Access(token or None, ca_file, hub or fetching.HUGGING_FACE)
            found = fetching.fetch(
                uri,
                destination,
                access=access,
                sha256=sha256,
                progress=progress,
                failed=failed,
                tries=tries,
            )
    except fetching.FetchFailed as exc:
        click.echo(f"penstock: {exc}", err=True)
        if termination_message is not None:
            told = {"reason": exc.reason, "message": str(exc)[:_MESSAGE_SIGNS]}
            termination_message.write_text(json.dumps(told) + "\n")
        return EXIT_PROBLEM
    facts = _facts(found.path)
    if facts and os.access(found.path.parent, os.W_OK):  # a claim may be mounted read-only
        _write(found.path.with_name(f"{found.path.name}.facts.json"), facts)
    click.echo(f"{found.path}: {found.size_bytes} bytes, SHA-256 {found.sha256}")
    if termination_message is not None:
        message = f"{found.path.name} is in place."
        end = {"reason": "Fetched", "message": message, "sha256": found.sha256}
        whole = {**end, "size": found.size_bytes, "facts": facts}
        termination_message.write_text(json.dumps(whole) + "\n")
    return 0


def _facts(path: Path) -> dict[str, object]:
    """What a GGUF says of itself about memory; empty for others."""
    from penstock.adapters.model_file import model_facts

    found = model_facts(path)
    return {} if found is None else found.to_dict()


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}.") from exc


def _write(path: Path, value: object) -> None:
    from penstock.adapters.files import write_atomically

    write_atomically(path, json.dumps(value).encode(), mode=0o644)
