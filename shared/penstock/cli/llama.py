"""`penstock llama-server`: the embedded llama.cpp, with llama-server's own flag names."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("llama-server")
@click.argument("model", required=False)
@click.option("-m", "--model", "model_flag", help="The GGUF file (or give it as the argument).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8080, show_default=True)
@click.option(
    "-c",
    "--ctx-size",
    type=int,
    default=0,
    help="Tokens of all slots together; 0: the trained window.",
)
@click.option(
    "--fit",
    is_flag=True,
    help="Choose --ctx-size, if it is not given, by the file and the memory limit of the container.",
)
@click.option(
    "--steps-down",
    type=click.IntRange(0, 64),
    default=0,
    help="With --fit: how often to make it smaller, fewer slots first; for a server that was killed for memory.",
)
@click.option("-np", "--parallel", type=int, default=1, show_default=True, help="Slots.")
@click.option("-n", "--n-predict", type=int, default=-1, help="Longest answer; -1: no bound.")
@click.option("-a", "--alias", help="Id of the model.")
@click.option("-t", "--threads", type=int)
@click.option("-b", "--batch-size", type=int)
@click.option("-ub", "--ubatch-size", type=int)
@click.option("-ngl", "--n-gpu-layers", type=int)
@click.option("--kv-unified", is_flag=True, help="All slots share one KV cache.")
@click.option("--embedding", "--embeddings", is_flag=True, help="Serve embeddings.")
@click.option(
    "--pooling",
    type=click.Choice(["none", "mean", "cls", "last", "rank"]),
    help="How the vectors of all tokens become one; default: what the model says.",
)
@click.option("--metrics/--no-metrics", default=True)
@click.option("--slots/--no-slots", default=True)
@click.option("--api-key", envvar="LLAMA_API_KEY")
@click.option("--until-stdin-closes", is_flag=True, help="End when standard input closes.")
def llama_server(
    model: str | None,
    model_flag: str | None,
    fit: bool,
    steps_down: int,
    parallel: int,
    **values: object,
) -> int:
    """Run the embedded llama.cpp (the extra `embedded`) as a server of its own."""
    from penstock.adapters.embedded import LlamaServerOptions, run_server

    path = model or model_flag
    if not path:
        raise click.UsageError("Name a GGUF file: penstock llama-server MODEL.gguf")
    if steps_down and not fit:
        raise click.UsageError("--steps-down says how --fit chooses; give both.")
    if fit and not values["ctx_size"]:
        from penstock.adapters.model_file import fit_file

        chosen = fit_file(Path(path), parallel=parallel, steps_down=steps_down)
        click.echo(
            f"penstock: {chosen.context_length} tokens for each of {chosen.parallel} requests at a time "
            f"(limited by: {chosen.limited_by.lower()}).",
            err=True,
        )
        parallel, values["ctx_size"] = chosen.parallel, chosen.tokens
    return run_server(LlamaServerOptions(path, parallel=parallel, **values))  # type: ignore[arg-type]
