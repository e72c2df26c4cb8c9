"""How handlers answer: what went wrong on purpose is told to the person, whatever else is an error of ours."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from valflow import mirroring
from valflow.errors import ActionIncomplete, ValflowError

logger = logging.getLogger(__name__)


def told(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A handler of a panel whose refusals are shown, after which the panel looks at the database again.

    Not where the person must add something first: what is selected would be gone, and the same button mean everything.
    """

    @functools.wraps(handler)
    def answer(self: Any, ctx: Any) -> Any:
        with mirroring.answering():
            try:
                return handler(self, ctx)
            except ValflowError as refusal:
                ctx.ops.notify(str(refusal), variant="error")
                if isinstance(refusal, ActionIncomplete):
                    return None
                return self.look_again(ctx, after=refusal)

    return answer


class DrawnOnChange:
    """Panels that an event which changes nothing, whose handler returns False, does not draw.

    Such events come in pairs with a click (a field is left, a new view ends the selection) and bring the state
    of before: drawn from that, the panel would fall back to what it showed then.

    Attributes:
        passing: names of the handlers of such events.
    """

    passing: tuple[str, ...] = ()

    def execute(self, ctx: Any) -> Any:
        """See FiftyOne."""
        event = ctx.params.get("__method__")
        if event not in self.passing:
            return super().execute(ctx)  # type: ignore[misc]
        if getattr(self, event)(ctx) is not False:
            ctx.ops.show_panel_output(self.render(ctx))  # type: ignore[attr-defined]
        return None


def logged(render: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A render whose errors reach the server's log; the App swallows them."""

    @functools.wraps(render)
    def answer(self: Any, ctx: Any) -> Any:
        try:
            return render(self, ctx)
        except Exception:
            logger.exception("the panel cannot be drawn")
            raise

    return answer
