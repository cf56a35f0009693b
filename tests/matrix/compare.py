"""What a client got, and what was recorded of it, beside what it is owed."""

from __future__ import annotations

from matrix.cells import Cell
from matrix.fronts import Got
from matrix.owed import SHORTER, Owed
from matrix.wires import SENTENCE
from penstock.gateway.edge.exchange import Exchange


def compare_answer(got: Got, due: Owed, cell: Cell) -> None:
    """Raises `AssertionError` where the answer is not as owed."""
    assert not got.broke, f"the transfer broke: {got.broke}"
    if due.is_whole:
        assert got.error is None, f"an error instead of the answer: {got.error}"
        assert (got.status, got.text, got.is_complete) == (200, SENTENCE, True), got
        return
    error = got.error
    assert error is not None, f"no error: {got}"
    assert error["code"] in due.codes, f"{error['code']}, not {due.codes}: {error['message']}"
    assert not got.is_complete, "an error and a proper end"
    assert got.is_event is due.as_event, f"as an event: {got.is_event}"
    status = error["status"] if due.as_event else got.status
    # Codex gives up on 429 and tries again on 503.
    is_codex = cell.front == "responses" and due.codes == ("queue_full",)
    due_status = 503 if is_codex else due.status
    assert status == due_status, f"status {status}, not {due_status}"
    if due.as_event:
        assert got.status == 200
        assert SENTENCE.startswith(got.text), f"text that the server never said: {got.text!r}"
    sources = ("penstock",) if due.is_refusal else ("upstream",)
    if SHORTER in due.codes:
        sources = ("penstock", "upstream")
    assert error["source"] in sources, f"source {error['source']}, not {sources}"
    if due.is_refusal:
        assert got.headers["x-should-retry"] == "true"
    else:
        low, high = due.attempts
        # Our own word, that it cannot be made shorter, counts none.
        tries = error.get("attempts", low if error["source"] == "penstock" else 0)
        assert error["upstream"] == cell.name
        assert low <= tries <= high, f"{tries} attempts, not {low} to {high}"
        if not due.as_event:
            assert got.headers.get("x-should-retry") == "false", "the client is not told to give up"
            assert int(got.headers["penstock-attempts"]) >= tries, "two numbers of attempts"
    if not due.as_event and due.retry_after:
        assert 1 <= int(got.headers.get("retry-after", "0")) <= 60, "no fitting Retry-After"


def compare_record(exchange: Exchange, due: Owed) -> None:
    """The same for the record."""
    assert exchange.outcome is not None
    assert exchange.outcome.value == due.outcome, f"recorded as {exchange.outcome.value}"
    is_told = (exchange.error_code in due.codes) if due.codes else not exchange.error_code
    assert is_told, f"recorded with {exchange.error_code!r}"
    low, high = due.attempts
    tries = len(exchange.attempts)
    assert low <= tries <= high, f"{tries} attempts are recorded, not {low} to {high}"
    assert not exchange.client_gone
    assert exchange.stage == "done"
    assert exchange.duration_s is not None
    assert 0 <= exchange.duration_s < 60
