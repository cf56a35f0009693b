"""`penstock export`: the running gateway as a LocalModel."""

from __future__ import annotations

import click


@click.command("export")
@click.option("--upstream", metavar="NAME", help="Which server, where several answer.")
@click.option(
    "--model-uri",
    "uri",
    metavar="URI",
    help="Where a cluster gets the weights, for example hf://owner/repository/file.gguf.",
)
@click.option("--name", metavar="NAME", help="Of the LocalModel. Default: made from the model's.")
@click.option("--port", type=int, help="Of the gateway, where several run.")
def export(upstream: str | None, uri: str | None, name: str | None, port: int | None) -> int:
    """
    Print the running gateway, its server and its settings as a LocalModel.

    `penstock export --model-uri hf://owner/repository/file.gguf | kubectl apply -f -`
    """
    import yaml

    from penstock.client import Client
    from penstock_operator.export.exporting import NotExported, exported
    from penstock_operator.localmodel.parsing import InvalidSpec, parse

    with Client.find(port) as client:
        found = exported(client.status(), client.settings(), upstream=upstream, uri=uri, name=name)
    try:
        parse(
            {
                **found.manifest,
                "metadata": {"uid": "", "namespace": "", **found.manifest["metadata"]},
            }
        )
    except InvalidSpec as exc:
        raise NotExported(f"A cluster would refuse it: {exc}") from exc
    for note in found.notes:
        click.echo(f"# {note}")
    click.echo(yaml.safe_dump(found.manifest, sort_keys=False, allow_unicode=True), nl=False)
    return 0
