"""Every error that valflow raises on purpose.

ValflowError
├── ConfigError          the configuration, or what it points at, cannot work (lists every problem)
├── RunNotFound          no run of that key
├── RunBusy              another run of the dataset and field is open, or another process holds this one
├── IllegalTransition    an event that the run's state does not allow
├── RecordTooNew         a run's record was written by a newer valflow
├── StaleAttempt         this process was given up for dead and may not write any more
├── SelectionError       a selection of labels that is empty or names what does not exist
├── AuditError           a draw or a verdict that cannot be accepted
├── CertificateError     a certificate that cannot be computed, or does not hold any more
├── DecisionRefused      a decision without the evidence, the right or the digest it needs
├── LabelsVanished       predicted labels are gone from the review field without a recorded rejection
├── InferenceFailed      too many samples could not be labelled
├── SuiteError           a validation suite that cannot be loaded
├── PromotionError       what was written differs from what was announced
├── RollbackRefused      a rollback without the name, the state or the digest it needs
├── EvaluationError      the evaluation cannot be computed or would replace somebody else's
├── ExportError          the export failed, or differs from the dataset when read back
├── OutsideFolder        a file would land outside the folder that was chosen for it
├── DatabaseError        the database cannot be reached or used
└── StackError           a server, worker or other child process did not start or answer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ValflowError(Exception):
    """Base of all errors that carry a readable message for the user."""

    def __reduce__(self) -> Any:
        # Other processes get what it says and holds; by default they would call its class with the message alone.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[ValflowError], arguments: tuple[Any, ...], values: dict[str, Any]) -> ValflowError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(values)
    return error


class ConfigError(ValflowError):
    """The configuration cannot work; ``problems`` lists every reason, one line each."""

    def __init__(self, problems: Sequence[str], source: str | None = None) -> None:
        self.problems = list(problems)
        where = f" in {source}" if source else ""
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(
            f"{count}{where}; nothing was written:\n" + "\n".join(f"  - {p}" for p in self.problems)
        )


class RunNotFound(ValflowError):
    """No run record has the given key."""


class RunBusy(ValflowError):
    """Another run of the same dataset and label field is open; ``run`` is its key."""

    def __init__(self, message: str, run: str) -> None:
        self.run = run
        super().__init__(message)


class IllegalTransition(ValflowError):
    """The run's state does not allow this event."""


class RecordTooNew(ValflowError):
    """A newer valflow wrote this run's record."""


class StaleAttempt(ValflowError):
    """A newer attempt has taken this run over."""


class SelectionError(ValflowError):
    """A selection of labels is empty, or names something that does not exist."""


class ActionIncomplete(SelectionError):
    """A person must add something first; what is shown and selected still holds."""


class AuditError(ValflowError):
    """A draw or a verdict cannot be accepted."""


class CertificateError(ValflowError):
    """A certificate cannot be computed from what is there, or what it rests on has changed."""


class DecisionRefused(ValflowError):
    """A decision was not accepted; ``missing`` names the evidence that is not there."""

    def __init__(self, message: str, missing: Sequence[str] = ()) -> None:
        self.missing = list(missing)
        super().__init__(message)


class LabelsVanished(ValflowError):
    """Predicted labels are gone from the review field without a recorded rejection."""


class InferenceFailed(ValflowError):
    """More samples failed than the configuration allows."""


class SuiteError(ValflowError):
    """A validation suite cannot be loaded."""


class PromotionError(ValflowError):
    """Labels written differ from labels announced."""


class RollbackRefused(ValflowError):
    """A rollback without the name, the state or the digest that it needs."""


class EvaluationError(ValflowError):
    """The evaluation cannot be computed, or would replace one that is not ours."""


class ExportError(ValflowError):
    """An export failed, or differs from the dataset when it is read back."""


class OutsideFolder(ValflowError):
    """A file would land outside the folder that was chosen for it."""


class DatabaseError(ValflowError):
    """The database cannot be reached or used."""


class StackError(ValflowError):
    """A server, worker or other child process did not start or answer."""
