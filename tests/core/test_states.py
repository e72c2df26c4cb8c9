"""The state machine, pair by pair."""

from __future__ import annotations

import itertools

import pytest

from valflow.errors import IllegalTransition
from valflow.states import OPEN_STATES, SHOWN_AS, TRANSITIONS, Event, State, advance, is_past

# Written out once more, by hand: a changed table must be a decision.
ALLOWED = {
    "CREATED": {"infer": "PREDICTED", "discard": "DISCARDED", "fail": "FAILED"},
    "PREDICTED": {"extend": "CREATED", "triage": "IN_REVIEW", "discard": "DISCARDED", "fail": "FAILED"},
    "IN_REVIEW": {"submit": "REVIEWED", "reopen": "IN_REVIEW", "discard": "DISCARDED"},
    "REVIEWED": {"validate": "VALIDATED", "reopen": "IN_REVIEW", "discard": "DISCARDED", "fail": "FAILED"},
    "VALIDATED": {
        "begin_finalize": "FINALIZING",
        "reopen": "IN_REVIEW",
        "discard": "DISCARDED",
        "fail": "FAILED",
    },
    "FINALIZING": {"finalize": "FINALIZED", "fail": "FAILED"},
    "FINALIZED": {"begin_rollback": "ROLLING_BACK"},
    "ROLLING_BACK": {"roll_back": "ROLLED_BACK", "bring_back": "FINALIZED", "begin_reopen": "REOPENING"},
    "ROLLED_BACK": {"begin_rollback": "ROLLING_BACK"},
    "REOPENING": {"reopen": "IN_REVIEW"},
    "DISCARDED": {},
    "FAILED": {"discard": "DISCARDED"},
}


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(State, Event)),
    ids=lambda value: value.value,
)
def test_every_pair(state: State, event: Event) -> None:
    after = ALLOWED[state.value].get(event.value)
    if after is not None:
        assert advance(state, event) is State(after)
        assert advance(state.value, event.value) is State(after)
        return
    with pytest.raises(IllegalTransition) as caught:
        advance(state, event)
    message = str(caught.value)
    assert f"a run that is {state.value} cannot '{event.value}'" in message
    allowed = [*ALLOWED[state.value], *(["retry"] if state is State.FAILED else [])]
    assert all(name in message for name in allowed)
    if not allowed:
        assert "start a new run" in message


@pytest.mark.parametrize(
    "failed_from", [s for s in State if (s, Event.FAIL) in TRANSITIONS], ids=lambda s: s.value
)
def test_a_retry_goes_back_to_where_the_run_failed(failed_from: State) -> None:
    assert advance(State.FAILED, Event.RETRY, failed_from) is failed_from
    assert advance("FAILED", "retry", failed_from.value) is failed_from


def test_a_run_that_failed_half_promoted_can_only_be_finished() -> None:
    for event in (Event.DISCARD, Event.REOPEN, Event.FINALIZE, Event.FAIL):
        with pytest.raises(IllegalTransition, match=r"it allows: retry$"):
            advance(State.FAILED, event, State.FINALIZING)
    assert advance(State.FAILED, Event.DISCARD, State.VALIDATED) is State.DISCARDED


@pytest.mark.parametrize(
    ("state", "event"), [("NOWHERE", "infer"), ("CREATED", "jump")], ids=["state", "event"]
)
def test_unknown_names(state: str, event: str) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        advance(state, event)


def test_the_way_of_a_run() -> None:
    state = State.CREATED
    for event in ("infer", "triage", "submit", "reopen", "submit", "validate", "begin_finalize", "finalize"):
        state = advance(state, event)
    assert state is State.FINALIZED


@pytest.mark.parametrize(
    ("state", "milestone", "expected"),
    [
        pytest.param("CREATED", State.PREDICTED, False, id="before"),
        pytest.param("PREDICTED", State.PREDICTED, True, id="just-there"),
        pytest.param("FINALIZED", State.CREATED, True, id="long-past"),
        pytest.param("FAILED", State.CREATED, False, id="failed-runs-go-again"),
        # A resumed flow of a discarded run walks from the top and must not infer again.
        pytest.param("DISCARDED", State.FINALIZED, True, id="discarded-runs-have-nothing-left"),
        pytest.param("ROLLED_BACK", State.PREDICTED, True, id="nor-have-those-taken-back"),
        pytest.param("REOPENING", State.FINALIZED, True, id="nor-those-that-somebody-reopens-just-now"),
    ],
)
def test_milestones(state: str, milestone: State, expected: bool) -> None:
    assert is_past(state, milestone) is expected


def test_only_ended_runs_are_closed() -> None:
    closed = {State.FINALIZED, State.DISCARDED, State.ROLLING_BACK, State.ROLLED_BACK}
    assert set(State) - OPEN_STATES == closed
    undoing = {State.FINALIZED, State.ROLLING_BACK, State.ROLLED_BACK}
    assert {before for before, _ in TRANSITIONS} - undoing | {State.FINALIZING} <= OPEN_STATES


def test_every_state_has_a_word_for_people() -> None:
    assert set(SHOWN_AS) == set(State)
    assert SHOWN_AS[State.IN_REVIEW] == "In Review"
    assert SHOWN_AS[State.FINALIZED] == "Approved"
