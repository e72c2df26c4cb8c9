"""Roll back in the App: from the button in the Approved tab, and as an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, counts, edit_label, labels_in, make_dataset, make_run
from tests.plugin.screens import Reviewer, call, form
from valflow import database, rolling_back, runs

PROMPT = "prompt_user_for_operation"


@pytest.fixture
def final(dataset: Any, run: str) -> str:
    """A run that is through."""
    bring_to(run, dataset, "FINALIZED")
    return run


def opened(dataset: Any, run: str) -> dict[str, Any]:
    """Parameters of the dialog that the button opens."""
    [asked] = Reviewer(dataset, "ann").open(run).click("roll_back").was_asked(PROMPT)
    assert asked["operator_uri"].endswith("roll_back_run")
    return dict(asked["params"])


def dialog(dataset: Any, **params: Any) -> dict[str, Any]:
    """What the dialog shows, by name of its parts."""
    parts: dict[str, Any] = form("roll_back_run", dataset, **params)["type"]["properties"]
    return parts


def test_the_button_takes_the_run_back(dataset: Any, final: str) -> None:
    ann = Reviewer(dataset, "ann").open(final)
    assert "Roll back" in ann.drawn()
    params = opened(dataset, final)
    assert params["digest"] == rolling_back.preview(final).digest
    shown = dialog(dataset, **params)
    assert "**6**" in str(shown["numbers"])
    assert {"reopen", "reviewer", "note"} <= shown.keys()
    assert "including_edited" not in shown  # nothing was edited
    assert shown["reviewer"]["default"] == "ann"
    answer = call("roll_back_run", dataset, **params, note="wrong model")
    assert answer["done"] == "rolled back: 6 labels left auto"
    record = runs.load(final)
    assert (record["state"], record["rollback"]["note"]) == ("ROLLED_BACK", "wrong model")
    ann.click("rolled_back")
    assert "rolled it back: wrong model" in ann.state["fate"]
    assert "Back into review" in ann.drawn()


def test_back_into_review(dataset: Any, final: str) -> None:
    ann = Reviewer(dataset, "ann").open(final)
    answer = call("roll_back_run", dataset, **opened(dataset, final), reopen=True)
    assert "in review again (round 2)" in answer["done"]
    assert f"valflow finalize {final}" in answer["done"]
    assert counts(final) == {"approved": 6, "rejected": 0, "undecided": 6}
    ann.click("rolled_back")
    assert ann.state["tab"] == "review"
    assert ann.figures["approved"] == 6


def test_a_run_that_was_rolled_back_comes_into_review(dataset: Any, final: str) -> None:
    rolling_back.roll_back(final, "ann")
    params = opened(dataset, final)
    assert dialog(dataset, **params)["reopen"]["default"] is True
    assert "in review again" in call("roll_back_run", dataset, **params, reopen=True)["done"]


class TestEdited:
    @pytest.fixture
    def edited(self, dataset: Any, final: str) -> str:
        label = min(labels_in(dataset, "auto"))
        edit_label(dataset, "auto", label, label="horse")
        return label

    def test_are_listed_and_kept(self, dataset: Any, final: str, edited: str) -> None:
        params = opened(dataset, final)
        shown = dialog(dataset, **params)
        assert edited in str(shown["edited"])
        assert "**5**" in str(shown["numbers"])
        assert "1 that were edited since stay" in call("roll_back_run", dataset, **params)["done"]
        assert list(labels_in(dataset, "auto")) == [edited]

    def test_go_where_that_is_asked(self, dataset: Any, final: str, edited: str) -> None:
        params = opened(dataset, final)
        assert "**6**" in str(dialog(dataset, **params, including_edited=True)["numbers"])
        call("roll_back_run", dataset, **params, including_edited=True)
        assert labels_in(dataset, "auto") == {}

    def test_are_in_the_way_of_a_reopening(self, dataset: Any, final: str, edited: str) -> None:
        params = opened(dataset, final)
        assert "in_the_way" in dialog(dataset, **params, reopen=True)
        assert "in_the_way" not in dialog(dataset, **params, reopen=True, including_edited=True)
        assert "--including-edited" in call("roll_back_run", dataset, **params, reopen=True)["refused"]
        assert runs.load(final)["state"] == "FINALIZED"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"digest": ""}, "needs the digest", id="a-call-from-elsewhere"),
        pytest.param({"digest": "0" * 64}, "have changed since you saw them", id="another-digest"),
        pytest.param({"reviewer": "  "}, "needs the name", id="nobody"),
        pytest.param({"reviewer": "policy"}, "name of the machine", id="the-machine"),
        pytest.param({"run": "nowhere"}, "no labeling run is named", id="no-such-run"),
        pytest.param({"run": ""}, "no run is final", id="no-run"),
    ],
)
def test_refused(dataset: Any, final: str, changes: dict[str, Any], says: str) -> None:
    answer = call("roll_back_run", dataset, **{**opened(dataset, final), **changes})
    assert says in answer["refused"]
    assert len(labels_in(dataset, "auto")) == 6


def test_what_changed_behind_the_dialog_is_refused(dataset: Any, final: str) -> None:
    params = opened(dataset, final)
    edit_label(dataset, "auto", min(labels_in(dataset, "auto")), label="horse")
    assert "changed since you saw them" in call("roll_back_run", dataset, **params)["refused"]


def test_from_the_operator_browser(dataset: Any, final: str) -> None:
    assert final in str(form("roll_back_run", dataset))
    shown = dialog(dataset, run=final, reviewer="ann")
    assert shown["digest"]["default"] == rolling_back.preview(final).digest


def test_it_says_why_it_cannot_run(dataset: Any, run: str, tmp_path: Path) -> None:
    assert "No run is final" in str(form("roll_back_run", make_dataset(tmp_path)))
    assert "only a run that is FINALIZED" in str(form("roll_back_run", dataset, run=run, reviewer="ann"))


def test_why_a_reopening_is_not_possible(dataset: Any, final: str) -> None:
    dataset.reload()
    other = make_run(dataset, target={"only": "all"})
    params = opened(dataset, final)
    shown = dialog(dataset, **params)
    assert "reopen" not in shown
    assert f"run {other}" in str(shown["blocked"])
    assert database.runs().count_documents({"run": final, "state": "FINALIZED"}) == 1
