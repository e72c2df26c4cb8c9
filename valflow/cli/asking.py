"""A question at the terminal."""

from __future__ import annotations

import sys

from valflow.errors import DecisionRefused


def said_yes(question: str, otherwise: str = "confirm with --yes") -> bool:
    """Whether the person at the terminal agrees.

    Args:
        question: without the choice of answers.
        otherwise: how to confirm where nobody can be asked.

    Raises:
        DecisionRefused: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise DecisionRefused(f"nobody is here to ask: {otherwise}")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
