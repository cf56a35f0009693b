"""
Step 5: a conversation is made to fit the window. Which strategy, which marks, what is told to the client.

Pure: messages, weights and what is known of the model in, what is sent and why out. `context` counts what
must be counted first and calls this; `penstock explain` calls the very same with estimated weights.

What is made for each request is a named tuple: a frozen dataclass of as many fields takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from penstock import compress, tokens
from penstock.compress import Budget, ContextOptions, DoesNotFit, Fitted
from penstock.domain.change import Change
from penstock.domain.pressure import Pressure
from penstock.domain.strategy import Strategy
from penstock.errors import ErrorCode, RequestError
from penstock.limits.num_ctx import NumCtx
from penstock.tokens import Scale, Weighed

Messages = Sequence[Mapping[str, Any]]


class Prepared(NamedTuple):
    """
    A conversation as it is sent.

    Attributes:
        messages: the client's own list when nothing was changed.
        tokens: what the prompt weighs as it is sent, tools and template included.
        original_tokens: the same for what the client sent.
        certain_tokens: tokens that the prompt has whatever its template leaves out of it, but for a blank
            here and there; 0 when it was only estimated.
        strategy: by which it was made to fit, empty when it needed nothing.
        num_ctx: the window that Ollama is asked for, None for other servers.
        changes: what is announced.
        plan, task: the planner's result and what it was asked, for `explain` and the summariser.
        weighed: what `messages` weigh, by which scale; None where they are others than those that were weighed,
            or where something of them was not counted yet.
    """

    messages: Messages
    tokens: int
    original_tokens: int
    certain_tokens: int = 0
    strategy: str = ""
    num_ctx: NumCtx | None = None
    changes: tuple[Change, ...] = ()
    plan: Fitted | None = None
    task: FitTask | None = None
    weighed: tuple[Scale, Weighed] | None = None

    def after(self, changes: tuple[Change, ...]) -> Prepared:
        """The same with what was changed before it was fitted announced first."""
        return self._replace(changes=(*changes, *self.changes)) if changes else self


def choose_strategy(
    *, asked: Strategy | None, model: str, user_agent: str, options: ContextOptions
) -> Strategy:
    """The request's word, else the settings' for this model, for this client, for all."""
    if asked is not None:
        return asked
    plain = model.removesuffix(":latest")
    for name in (model, plain):
        if name in options.models:
            return options.models[name]
    for pattern, strategy in options.models.items():
        if fnmatchcase(model, pattern) or fnmatchcase(plain, pattern):
            return strategy
    if options.client_user_agents:
        agent = user_agent.lower()
        if any(fnmatchcase(agent, pattern.lower()) for pattern in options.client_user_agents):
            return Strategy.CLIENT
    return options.strategy


class FitTask(NamedTuple):
    """
    What there is to fit.

    Attributes:
        messages, weights: each message and its tokens.
        fixed: tokens of tools and template, always there.
        window: tokens of prompt and answer.
        pressure, budget_class: move the marks, in few steps (contracts 9).
        told: the client was told of an overflow of this conversation before, so with the strategy
            `client` it is cut now.
        weigh: weight of a message that the planner makes itself.
        summary: text of the summary of what a cut drops, None while it is not ready.
    """

    messages: Messages
    weights: Sequence[int]
    fixed: int
    window: int
    strategy: Strategy
    options: ContextOptions
    weigh: Callable[[Mapping[str, Any]], int]
    pressure: Pressure = Pressure.CALM
    budget_class: float = 1.0
    told: bool = False
    summary: Callable[[str], str | None] | None = None

    @property
    def total(self) -> int:
        """Tokens of what the client sent."""
        return self.fixed + sum(self.weights)


class ClientMustCompact(Exception):
    """The strategy is `client`, and it was not told yet."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


def budget_of(task: FitTask) -> Budget:
    """Marks and room for *task*."""
    return compress.budget(
        task.window,
        pressure=task.pressure,
        options=task.options,
        fixed=task.fixed,
        budget_class=task.budget_class,
    )


def fit(task: FitTask) -> Fitted:
    """
    Plan what is sent.

    Raises:
        ClientMustCompact: see there.
        DoesNotFit: it cannot be made to fit.
    """
    strategy = task.strategy
    room = budget_of(task)
    if strategy is Strategy.CLIENT:
        if task.total <= room.most:
            strategy = Strategy.OFF
        elif not task.told:
            raise ClientMustCompact(task.total)
        else:
            strategy = Strategy.WINDOW
    return compress.fit(
        task.messages,
        task.weights,
        budget=room,
        weigh=task.weigh,
        strategy=strategy,
        options=task.options,
        summary=task.summary if strategy is Strategy.SUMMARY else None,
    )


_NEAR = 0.85
"""Share of the high mark from which the next cut is prepared."""


def goes_next(task: FitTask, plan: Fitted) -> Messages:
    """What the next cut would leave out, when the conversation is near its mark; nothing while it is not."""
    room = budget_of(task)
    if plan.tokens < _NEAR * room.high:
        return ()
    return compress.foresee(task.messages, task.weights, budget=room, weigh=task.weigh)


def overflow(tokens: int, window: int, *, hint: str) -> RequestError:
    """The error that agents recognise and compact at (client facts)."""
    shown = max(tokens, window + 1)
    return RequestError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"prompt is too long: {shown} tokens > {window} maximum. "
        f"This model's maximum context length is {window} tokens.",
        param="messages",
        hint=hint,
    )


def cannot_fit(problem: DoesNotFit, task: FitTask) -> RequestError:
    """What a client is told when nothing that may be left out would help."""
    room = budget_of(task)
    if task.strategy is Strategy.OFF:
        hint = "The strategy is off; with `window` the oldest turns would be left out."
    else:
        hint = (
            f"What is never left out weighs {problem.least} tokens and {room.most} are free for it"
            f" ({task.fixed} of them are tools and template): {problem.what}. "
            "Shorten that, offer fewer tools, or run the model with a larger window."
        )
    return overflow(problem.tokens, task.window, hint=hint)


def prepared_by(
    task: FitTask,
    plan: Fitted,
    num_ctx: NumCtx | None,
    *,
    counted: bool,
    weighed: tuple[Scale, Weighed] | None = None,
) -> Prepared:
    """
    What a plan came to.

    Args:
        counted: all weights are the server's own counts, and what the template adds was measured.
        weighed: what the task's messages weigh, by which scale, where all of it is known.
    """
    changes = plan.changes
    if num_ctx is not None and num_ctx.why:
        changes = (Change("fit", "options.num_ctx", "set", num_ctx.why), *changes)
    name = Strategy.WINDOW if task.strategy is Strategy.CLIENT else task.strategy
    return Prepared(
        messages=plan.messages,
        tokens=plan.tokens,
        original_tokens=plan.original_tokens,
        certain_tokens=max(1, plan.tokens - tokens.thinking_bytes(plan.messages)) if counted else 0,
        strategy="" if plan.messages is task.messages else name.value,
        num_ctx=num_ctx,
        changes=changes,
        plan=plan,
        task=task,
        weighed=weighed if plan.messages is task.messages else None,
    )
