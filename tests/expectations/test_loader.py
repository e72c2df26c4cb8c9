"""What a suite may not be, and how that is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from great_expectations.expectations import registry

from expectations.classes import known_classes
from expectations.loader import check_suites, load_suite
from expectations.rehearsal import rehearse
from tests.expectations.own_checks import NotAnExpectation
from valflow.errors import SuiteError

BETWEEN = "expect_column_values_to_be_between"
OWN = "tests.expectations.own_checks"


def item(type_name: str = BETWEEN, kwargs: str = "{column: confidence, min_value: 0}", more: str = "") -> str:
    return f"  - {{type: '{type_name}', kwargs: {kwargs}{', ' + more if more else ''}}}"


def suite(items: str, head: str = "name: mine\ntable: labels\n") -> str:
    return f"{head}expectations:\n{items}\n"


BAD: list[object] = [
    pytest.param("", ["expected a mapping", "found nothing"], id="empty file"),
    pytest.param("- a\n- b\n", ["expected a mapping", "found a list"], id="a list"),
    pytest.param("name: [\n", ["line 2", "not valid YAML"], id="broken YAML"),
    pytest.param("name: a\nname: b\n", ["line 2", "'name' is given twice"], id="key twice"),
    pytest.param(
        suite(item()) + "expectation: []\n", ["unknown key 'expectation'", "'expectations'"], id="key"
    ),
    pytest.param("name: mine\ntable: labels\n", ["at least one check", "found nothing"], id="no checks"),
    pytest.param(
        "name: mine\ntable: labels\nexpectations: []\n", ["at least one", "pass everything"], id="empty suite"
    ),
    pytest.param(suite(item(), "table: labels\n"), ["expected `name: …`", "found nothing"], id="no name"),
    pytest.param(
        suite(item(), "name: mine\n"), ["`table: labels, samples, certificate or audit`"], id="no table"
    ),
    pytest.param(
        suite(item(), "name: mine\ntable: boxes\n"), ["certificate or audit", "'boxes'"], id="table"
    ),
    pytest.param(
        suite("  - expect"), ["item 1 (line 4)", "mapping with type and kwargs"], id="item is a text"
    ),
    pytest.param(suite(item(more="severty: info")), ["unknown key 'severty'", "'severity'"], id="item key"),
    pytest.param(suite("  - {kwargs: {}}"), ["expected `type: expect_…`", "found None"], id="no type"),
    pytest.param(suite(item("expect_column_values_to_be_betwen")), [f"'{BETWEEN}'"], id="type misspelt"),
    pytest.param(suite(item("ExpectColumnValuesToBeBetween")), [f"'{BETWEEN}'"], id="type as a class name"),
    pytest.param(
        suite(item("sums_to_ten")), ["unknown expectation type 'sums_to_ten'", "gallery"], id="type"
    ),
    pytest.param(suite(item(more="severity: fatal")), ["critical, warning, info", "'fatal'"], id="severity"),
    pytest.param(suite(item(more="severity: ")), ["critical, warning, info", "None"], id="blank severity"),
    pytest.param(suite(item(more="description: [a]")), ["a text as description"], id="description"),
    pytest.param(suite(item(kwargs="[1]")), ["expected kwargs to be a mapping"], id="kwargs is a list"),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_valu: 0}")),
        ["unknown argument 'min_valu'", "'min_value'"],
        id="argument misspelt",
    ),
    pytest.param(suite(item(kwargs="{min_value: 0}")), ["the argument 'column' is missing"], id="missing"),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: low}")),
        ["min_value: value is not a valid float; found 'low'"],
        id="argument of another type",
    ),
    pytest.param(suite(item(kwargs="{column: confidence}")), ["neither min_value nor"], id="no bounds"),
    pytest.param(
        suite(item("expect_table_row_count_to_be_between", "{}")),
        ["neither min_value nor"],
        id="no row bounds",
    ),
    pytest.param(
        suite(item("expect_table_row_count_to_be_between", "{min_value: 1.5}")),
        ["min_value: expected a whole number; found 1.5"],
        id="half a row",
    ),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: 2, max_value: 1}")),
        ["min_value 2 is above max_value 1"],
        id="bounds the wrong way round",
    ),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: 0, mostly: 2}")), ["mostly", "1.0"], id="mostly"
    ),
    pytest.param(
        suite(item(kwargs="{column: confidnce, min_value: 0}")),
        ["the labels table has no column 'confidnce'", "'confidence'"],
        id="column misspelt",
    ),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: 0, severity: warning}")),
        ["'severity' stands beside kwargs"],
        id="severity inside kwargs",
    ),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: 0, result_format: BASIC}")),
        ["'result_format' is set by the gate"],
        id="result format",
    ),
    pytest.param(
        suite(item(kwargs="{column: x, min_value: 0, row_condition: 'source == \"auto\"'}")),
        ["row_condition as a mapping", "type: comparison"],
        id="row condition as a text",
    ),
    pytest.param(
        suite(item(kwargs="{column: x, min_value: 0, row_condition: {source: auto}}")),
        ["a row_condition like", "type: comparison"],
        id="row condition of another shape",
    ),
    pytest.param(
        suite(
            item(
                kwargs="{column: x, min_value: 0, row_condition: "
                "{type: nullity, column: {name: treshold}, is_null: false}}"
            )
        ),
        ["no column 'treshold'", "'threshold'"],
        id="column of a row condition",
    ),
    pytest.param(
        suite(item("expect_column_values_to_be_in_set", "{column: label, value_set: {$PARAMETER: clases}}")),
        ["unknown $PARAMETER 'clases'", "'classes'"],
        id="parameter misspelt",
    ),
    pytest.param(
        suite(item("expect_column_values_to_be_in_set", "{column: label, value_set: {$PARAM: classes}}")),
        ["expected exactly {$PARAMETER: name}"],
        id="parameter key misspelt",
    ),
    pytest.param(
        suite(item(kwargs="{column: confidence, min_value: {$PARAMETER: classes}}")),
        ["min_value", "found ['a', 'b', 'c']"],
        id="parameter of another type",
    ),
    pytest.param(
        suite(item() + "\n" + item()), ["item 2 (line 5)", "same check as item 1"], id="check twice"
    ),
    pytest.param(suite(item("no_such_package.checks:ExpectX")), ["cannot import", "PYTHONPATH"], id="module"),
    pytest.param(suite(item(f"{OWN}:ExpectTextsToStart")), ["'ExpectTextsToStartWith'"], id="class misspelt"),
    pytest.param(suite(item(f"{OWN}:NotAnExpectation")), ["expected a subclass"], id="not an expectation"),
    pytest.param(suite(item(f"{OWN}:ExpectSomethingUnfinished")), ["abstract class"], id="abstract class"),
    pytest.param(
        suite(item("my-package:ExpectX")), ["my_package.my_module:ExpectSomething"], id="import path"
    ),
    pytest.param(
        suite(item(f"{OWN}:ExpectTextsToStartWith", "{column: label, prefx: c}")),
        ["unknown argument 'prefx'", "'prefix'"],
        id="argument of a class of one's own",
    ),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_a_bad_suite_says_where_what_and_what_to_do(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SuiteError) as caught:
        load_suite("mine.yaml", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "mine.yaml") in message
    assert [part for part in told if part not in message] == []
    # A preflight tells the same, as a list.
    assert check_suites(["mine.yaml"], tmp_path) == message.split("\n")


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        pytest.param("label", ["no shipped suite", "did you mean 'labels'"], id="name misspelt"),
        pytest.param(
            "zoom", ["known: audit, certificate, labels, samples", "./zoom.yaml"], id="name unknown"
        ),
        pytest.param("", ["known: audit, certificate, labels, samples"], id="nothing"),
        pytest.param("suites/mine.yaml", ["found no file", "suites/mine.yaml"], id="file missing"),
        pytest.param("./", ["found no file"], id="a folder"),
    ],
)
def test_a_reference_that_leads_nowhere(tmp_path, reference, told):
    with pytest.raises(SuiteError) as caught:
        load_suite(reference, tmp_path)
    assert [part for part in told if part not in str(caught.value)] == []


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot be read"):
        load_suite("mine.yaml", tmp_path)


def test_all_problems_of_all_suites_are_listed(tmp_path):
    (tmp_path / "a.yaml").write_text(suite(item("nonsense") + "\n" + item(more="severity: fatal")))
    (tmp_path / "b.yaml").write_text(suite(item("expect_nothing")))
    problems = check_suites(["a.yaml", "labels", "b.yaml", "labls"], tmp_path)
    assert [problem.split(":")[0].split(",")[0] for problem in problems] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
        "suite 'labls'",
    ]


@pytest.mark.parametrize(
    ("references", "told"),
    [
        pytest.param([], "no validation suite is named", id="none"),
        pytest.param(["labels", "labels"], "named 2 times", id="one twice"),
        pytest.param(["labels", "mine.yaml"], "the name 'labels' is taken", id="two of a name"),
    ],
)
def test_lists_of_suites_that_cannot_be(tmp_path, references, told):
    (tmp_path / "mine.yaml").write_text(suite(item(), "name: labels\ntable: labels\n"))
    problems = check_suites(references, tmp_path)
    assert len(problems) == 1
    assert told in problems[0]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        pytest.param(
            item(f"{OWN}:ExpectMetricThatIsNotThere", "{column: label}"), "nobody_defined", id="metric"
        ),
        pytest.param(
            item(f"{OWN}:ExpectPreparationToWork", "{column: label}"), "no preparation", id="raises"
        ),
        pytest.param(item(kwargs="{column: label, min_value: 3}"), "same type", id="text against a number"),
        pytest.param(
            item("unexpected_rows_expectation", "{unexpected_rows_query: 'SELECT * FROM {batch}'}"),
            "unexpected_rows",
            id="SQL on a table in memory",
        ),
        pytest.param(
            item(
                "expect_column_kl_divergence_to_be_less_than",
                "{column: label, threshold: 1, partition_object: {values: [cat], weights: [0.5, 0.5]}}",
            ),
            "artition",
            id="impossible mix",
        ),
    ],
)
def test_the_rehearsal_names_what_cannot_run(tmp_path, bad, told):
    (tmp_path / "mine.yaml").write_text(suite(item() + "\n" + bad))
    problems = check_suites(["mine.yaml"], tmp_path)
    assert len(problems) == 1
    assert "item 2 (line 5)" in problems[0]
    assert "cannot run" in problems[0]
    assert told in problems[0]


def test_the_rehearsal_minds_no_result(tmp_path):
    never = item("expect_column_values_to_be_in_set", "{column: label, value_set: [unicorn]}")
    nobody = item(
        "expect_column_mean_to_be_between",
        "{column: confidence, min_value: 0.9, row_condition: "
        '{type: comparison, column: {name: label}, operator: "==", parameter: unicorn}}',
    )
    (tmp_path / "mine.yaml").write_text(suite(never + "\n" + nobody))
    assert check_suites(["mine.yaml"], tmp_path) == []


def test_a_class_may_not_take_a_shipped_name(tmp_path, monkeypatch):
    shipped = known_classes()["expect_boxes_to_lie_inside_image"]
    # The import replaces the shipped class for the whole process; monkeypatch puts it back.
    monkeypatch.setitem(registry._registered_expectations, shipped.expectation_type, shipped)
    (tmp_path / "mine.yaml").write_text(
        suite(item("tests.expectations.same_name:ExpectBoxesToLieInsideImage", "{column: x}"))
    )
    problems = check_suites(["mine.yaml"], tmp_path)
    assert len(problems) == 1
    assert "a shipped class has that name already" in problems[0]


def test_a_replaced_class_is_noticed(tmp_path, monkeypatch):
    loaded = load_suite("samples", tmp_path)
    first = loaded.items[0].expectation
    monkeypatch.setitem(registry._registered_expectations, first.expectation_type, NotAnExpectation)
    assert "another class of that name" in rehearse(loaded)[0]


def test_what_a_suite_holds(tmp_path):
    text = """
name: mine
table: samples
notes: why
expectations:
  - type: expect_column_values_to_be_between
    kwargs: {column: labels, max_value: {$PARAMETER: max_labels_per_sample}}
    severity: warning
    description: not too many
    notes: [one, two]
    meta: {owner: team}
  - type: expect_column_mean_to_be_between
    kwargs: {column: labels, min_value: 1}
  - type: expect_column_values_to_not_be_null
    kwargs: {column: labels, mostly: 0.9}
"""
    (tmp_path / "mine.yaml").write_text(text)
    loaded = load_suite("mine.yaml", tmp_path)
    assert (loaded.name, loaded.table, loaded.notes) == ("mine", "samples", "why")
    assert loaded.parameters == {"max_labels_per_sample"}
    first = loaded.items[0]
    assert (first.severity, first.description, first.notes) == ("warning", "not too many", "one\ntwo")
    assert first.columns == ("labels",)
    assert [i.severity for i in loaded.items] == ["warning", "critical", "critical"]
    assert [i.is_row_check for i in loaded.items] == [True, False, False]


def test_an_absolute_path_and_one_seen_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(suite(item()))
    monkeypatch.chdir("/")
    assert load_suite(str(tmp_path / "mine.yaml"), Path("/nowhere")).name == "mine"
    assert load_suite("./mine.yaml", tmp_path).name == "mine"
