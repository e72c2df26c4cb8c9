"""A reviewer without a browser: keeps the panel's state as the App does, and calls what a click calls."""

from __future__ import annotations

from typing import Any

import pydash

from valflow.review_app import PANEL_URI, PLUGIN


class Reviewer:
    """One browser with the panel open.

    Attributes:
        picture: id of the sample or patch that is open.
        state: of the panel, as the browser would send it with the next click.
        said: ``(variant, message)`` of the notifications of the last click.
        asked: ``(operator, params)`` of everything the last click asked the App for.
    """

    def __init__(self, dataset: Any, name: str = "", panel: str = PANEL_URI) -> None:
        self.dataset, self.panel = dataset, panel
        self.picture: str | None = None
        self.state: dict[str, Any] = {"reviewer": name} if name else {}
        self.said: list[tuple[str, str]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def click(self, handler: str, *, context: dict[str, Any] | None = None, **params: Any) -> Reviewer:
        """Call a handler of the panel.

        Args:
            handler: its name.
            context: what the App adds: ``selected``, ``selected_labels``, ``current_sample``.
            params: of the button.
        """
        import fiftyone.operators as foo

        message = {"panel_id": "p", "__method__": handler, "panel_state": self.state, **params}
        app = {"dataset": self.dataset, "current_sample": self.picture, **(context or {})}
        result = foo.execute_operator(self.panel, ctx=app, params=message)
        assert not result.error, result.error
        self.said, self.asked = [], []
        for request in result.executor._requests:
            name, asked = request.operator_uri.split("/")[-1], request.params or {}
            self.asked.append((name, asked))
            if name == "patch_panel_state":
                for key, value in asked["state"].items():
                    pydash.set_(self.state, key, value)
            elif name == "open_sample":
                self.picture = asked["id"]
            elif name == "notify":
                self.said.append((asked["variant"], asked["message"]))
        return self

    def open(self, run: str) -> Reviewer:
        """Click on the run in the table."""
        self.click("on_load").click("open_run", row=-1)
        return self.click("open_run", row=self.state["run_keys"].index(run))

    def select(self, handler: str, ids: list[str], **params: Any) -> Reviewer:
        """Click with tiles selected in the grid."""
        return self.click(handler, context={"selected": ids}, **params)

    @property
    def grid(self) -> list[str]:
        """Ids of the tiles on the page."""
        return list(self.state["on_grid"])

    @property
    def figures(self) -> dict[str, Any]:
        """What the panel shows beside the pictures."""
        return dict(self.state["seen"])

    def refusal(self) -> str:
        """The one error that the last click was answered with."""
        errors = [message for variant, message in self.said if variant == "error"]
        assert len(errors) == 1, self.said
        return errors[0]

    def success(self) -> str:
        """The last success that the last click was answered with."""
        found = [message for variant, message in self.said if variant == "success"]
        assert found, self.said
        return found[-1]

    def drawn(self) -> str:
        """All of the panel as the browser gets it."""
        return str(next(p.get("outputs", p) for n, p in self.asked if n == "show_panel_output"))

    def was_asked(self, operator: str) -> list[dict[str, Any]]:
        """Parameters of every call of one of the App's operators."""
        return [params for name, params in self.asked if name == operator]


def call(name: str, dataset: Any, ids: tuple[str, ...] = (), /, **params: Any) -> dict[str, Any]:
    """Execute an operator of the plugin; returns its answer."""
    import fiftyone.operators as foo

    context = {"dataset": dataset, "selected": list(ids)}
    result = foo.execute_operator(f"{PLUGIN}/{name}", ctx=context, params=params)
    assert not result.error, result.error
    answer: dict[str, Any] = result.result
    return answer


def form(name: str, dataset: Any, /, **params: Any) -> dict[str, Any]:
    """The form of an operator as the browser gets it."""
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    context = ExecutionContext(request_params={"dataset_name": dataset.name, "params": params})
    shown: dict[str, Any] = foo.get_operator(f"{PLUGIN}/{name}").resolve_input(context).to_json()
    return shown
