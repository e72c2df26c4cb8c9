"""Reminds people of a run that waits for them."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.remind import remind


@flow(name="remind-reviewer")
def remind_reviewer(run: str, review_round: int, number: int) -> Any:
    """Tell again that a run waits for a person; `review.remind_after` plans these by itself.

    Args:
        run: key of the labeling run.
        review_round: its round; in a later one this reminder has no meaning any more.
        number: counts the reminders of the round from 1.
    """
    return remind(run, review_round, number)
