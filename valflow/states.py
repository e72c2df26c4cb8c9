"""The state machine of a labeling run, as one pure table."""

from __future__ import annotations

from enum import StrEnum

from valflow.errors import IllegalTransition


class State(StrEnum):
    """Where a run stands. Past participles, but for those in which somebody is at work."""

    CREATED = "CREATED"
    PREDICTED = "PREDICTED"
    IN_REVIEW = "IN_REVIEW"
    REVIEWED = "REVIEWED"
    VALIDATED = "VALIDATED"
    FINALIZING = "FINALIZING"
    FINALIZED = "FINALIZED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    REOPENING = "REOPENING"
    DISCARDED = "DISCARDED"
    FAILED = "FAILED"


class Event(StrEnum):
    """What can happen to a run. Imperative verbs."""

    INFER = "infer"
    EXTEND = "extend"
    TRIAGE = "triage"
    SUBMIT = "submit"
    VALIDATE = "validate"
    REOPEN = "reopen"
    BEGIN_FINALIZE = "begin_finalize"
    FINALIZE = "finalize"
    BEGIN_ROLLBACK = "begin_rollback"
    ROLL_BACK = "roll_back"
    BRING_BACK = "bring_back"
    BEGIN_REOPEN = "begin_reopen"
    DISCARD = "discard"
    FAIL = "fail"
    RETRY = "retry"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CREATED, Event.INFER): State.PREDICTED,
    (State.PREDICTED, Event.EXTEND): State.CREATED,
    (State.PREDICTED, Event.TRIAGE): State.IN_REVIEW,
    (State.IN_REVIEW, Event.SUBMIT): State.REVIEWED,
    (State.IN_REVIEW, Event.REOPEN): State.IN_REVIEW,
    (State.REVIEWED, Event.VALIDATE): State.VALIDATED,
    (State.REVIEWED, Event.REOPEN): State.IN_REVIEW,
    (State.VALIDATED, Event.REOPEN): State.IN_REVIEW,
    (State.VALIDATED, Event.BEGIN_FINALIZE): State.FINALIZING,
    (State.FINALIZING, Event.FINALIZE): State.FINALIZED,
    (State.FINALIZED, Event.BEGIN_ROLLBACK): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.ROLL_BACK): State.ROLLED_BACK,
    # From there a run comes back into review, or into the label field by a safety copy.
    (State.ROLLED_BACK, Event.BEGIN_ROLLBACK): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.BEGIN_REOPEN): State.REOPENING,
    (State.ROLLING_BACK, Event.BRING_BACK): State.FINALIZED,
    (State.REOPENING, Event.REOPEN): State.IN_REVIEW,
    **{
        (state, Event.DISCARD): State.DISCARDED
        for state in (
            State.CREATED,
            State.PREDICTED,
            State.IN_REVIEW,
            State.REVIEWED,
            State.VALIDATED,
            State.FAILED,
        )
    },
    **{
        (state, Event.FAIL): State.FAILED
        for state in (State.CREATED, State.PREDICTED, State.REVIEWED, State.VALIDATED, State.FINALIZING)
    },
}

# Nobody else may label into the same field while a run is in one of these. (While it is rolled back in order to be
# reopened neither, which its record says.)
OPEN_STATES = frozenset(State) - {State.FINALIZED, State.DISCARDED, State.ROLLING_BACK, State.ROLLED_BACK}

_ORDER = (
    State.CREATED,
    State.PREDICTED,
    State.IN_REVIEW,
    State.REVIEWED,
    State.VALIDATED,
    State.FINALIZING,
    State.FINALIZED,
)

# What a run in this state has before it, and what has failed where it fails.
STAGE_AFTER = {
    State.CREATED: "infer",
    State.PREDICTED: "triage",
    State.REVIEWED: "validate",
    State.VALIDATED: "finalize",
    State.FINALIZING: "finalize",
}

# The words of the guide to this workflow, which people know from the App.
SHOWN_AS = {
    State.CREATED: "Generating",
    State.PREDICTED: "Generating",
    State.IN_REVIEW: "In Review",
    State.REVIEWED: "In Review (decided)",
    State.VALIDATED: "In Review (validated)",
    State.FINALIZING: "Finalizing",
    State.FINALIZED: "Approved",
    State.ROLLING_BACK: "Rolling back",
    State.ROLLED_BACK: "Rolled back",
    State.REOPENING: "Reopening",
    State.DISCARDED: "Discarded",
    State.FAILED: "Error",
}
# PREDICTED, as long as the run waits for more labels to be audited together.
WAITING_FOR_MORE = "Waiting for more"


def advance(state: State | str, event: Event | str, failed_from: State | str | None = None) -> State:
    """The state after ``event``.

    Args:
        state: where the run stands.
        event: what happens.
        failed_from: the state in which a FAILED run failed, to which a retry returns.

    Raises:
        IllegalTransition: the state does not allow the event; the message names the ones it allows.
    """
    state, event = State(state), Event(event)
    if state is State.FAILED and event is Event.RETRY and failed_from is not None:
        return State(failed_from)
    # Labels may already be in the label field: the only way out is to finish.
    half_promoted = state is State.FAILED and failed_from == State.FINALIZING
    following = None if half_promoted else TRANSITIONS.get((state, event))
    if following is None:
        allowed = [] if half_promoted else sorted(e.value for s, e in TRANSITIONS if s is state)
        allowed += [Event.RETRY.value] if state is State.FAILED else []
        raise IllegalTransition(
            f"a run that is {state.value} cannot {event.value!r}; "
            + (f"it allows: {', '.join(allowed)}" if allowed else "it has ended, start a new run")
        )
    return following


def is_past(state: State | str, milestone: State) -> bool:
    """Whether nothing is left to do up to ``milestone``: a run that has ended is past everything, a FAILED one not."""
    state = State(state)
    if state in (State.DISCARDED, State.ROLLING_BACK, State.ROLLED_BACK, State.REOPENING):
        return True
    return state in _ORDER and _ORDER.index(state) >= _ORDER.index(milestone)
