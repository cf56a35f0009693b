"""Settings of admission."""

from __future__ import annotations

from penstock.domain.options import Options, option


class ConcurrencyOptions(Options):
    """How many requests a local upstream gets at a time, and who may wait."""

    max_concurrency: int | None = option(
        None,
        effect="Requests at a time for each local upstream.",
        reason="Left out, the server's slots decide, and memory until these are known.",
        ge=1,
        le=1024,
    )
    adaptive: bool | None = option(
        None,
        effect="Whether the number follows what the server shows: how quickly it answers, and its errors.",
        reason="Left out, it does, but a number that you gave stays as it is; `true` makes that a ceiling.",
    )
    adaptive_ceiling: int = option(
        32,
        effect="The most that the number grows to where neither you nor the server named one.",
        reason="More in a batch helps only servers that tell their slots, or those whose users know.",
        ge=1,
        le=1024,
    )
    queue_length: int = option(
        100, effect="Requests that may wait for one upstream.", ge=0, le=100_000
    )
    queue_bytes: int = option(
        64 * 1024 * 1024,
        effect="Bytes of request bodies that may wait for one upstream.",
        unit="bytes",
        ge=0,
    )
    queue_deadline_s: float = option(
        120.0,
        effect="Longest wait behind other requests.",
        unit="seconds",
        reason="The clock stands still while the server loads, is held or is being restarted.",
        gt=0,
    )
    keep_slot_s: float = option(
        1.5,
        effect="Longest time for which a free slot is kept for the conversation that it is warm with.",
        unit="seconds",
        reason="An agent is back from its tool in about a second, and a prefill costs many; 0 keeps none.",
        ge=0,
        le=60,
    )
