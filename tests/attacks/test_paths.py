"""Names from configurations, records and datasets, and links that somebody planted, lead no file out of its folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.builders import make_dataset, make_run
from tests.core.report_cases import make_record
from valflow import database, runs
from valflow.config import config_from_mapping
from valflow.errors import ConfigError, ExportError, OutsideFolder
from valflow.exporting import FORMATS, export_labels
from valflow.places import inside, write_inside
from valflow.report import write_report
from valflow.reporting import write_run_report
from valflow.run_exports import export_run
from valflow.states import State

OUT = [
    "../escaped",
    "..",
    ".",
    "",
    "/etc/valflow",
    "a/../../b",
    "a/b",
    "..\\b",
    "\0",
    "..\0/b",
]
TRICKS = {
    "up": "../../../escaped",
    "absolute": "/etc/escaped",
    "quotes": "a'b\"c`d",
    "newline": "a\nb: c\n- d",
    "markup": "</name><name>cat</name><!--",
    "yaml": "x: !!python/object/apply:os.system ['true']",
    "option": "-rf",
    "dots": "..",
    "spaces": "  a  ,  b  ",
}


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder where nothing may land, with one file that nothing may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "diary.txt").write_text("mine")
    return folder


@pytest.fixture
def final(tmp_path: Path) -> str:
    """A run whose labels are in the label field."""
    return make_run(make_dataset(tmp_path, samples=3, empty=0), State.FINALIZED)


# -- names


@pytest.mark.parametrize("name", OUT)
def test_only_the_name_of_a_folder_is_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutsideFolder, match="expected the name of one folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize("key", [*OUT, "a-b", "a b", "1a", "class", "_hidden", "latest"])
def test_a_run_key_is_an_identifier(key: str) -> None:
    values = {"dataset": "d", "label_field": "f", "model": {"kind": "field", "field": "p"}, "run_key": key}
    with pytest.raises(ConfigError, match="run_key"):
        config_from_mapping(values)


@pytest.mark.parametrize("name", [*OUT[:8], *TRICKS.values()])
def test_a_key_made_of_a_name_is_an_identifier(tmp_path: Path, name: str) -> None:
    values = {"dataset": name or "x", "label_field": "f", "model": {"kind": "field", "field": "p"}}
    key = runs._derived_key(config_from_mapping(values), database.now())
    assert key.isidentifier()
    assert key.isascii()
    assert inside(tmp_path, key) == tmp_path / key


def test_no_record_leads_a_report_or_an_export_elsewhere(final: str, tmp_path: Path) -> None:
    record = runs.load(final)
    dataset, record["config"]["output_dir"] = database.dataset_of(record), str(tmp_path / "reports")
    before = files_below(tmp_path)
    for key in OUT:
        with pytest.raises(OutsideFolder):
            write_run_report({**record, "run": key})
        with pytest.raises(OutsideFolder):
            export_labels(dataset, record["label_field"], "coco", tmp_path / "out", key)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("name", TRICKS.values(), ids=TRICKS)
def test_a_name_of_a_run_is_no_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "reports" / "run_1"
    record = make_record(name=name, dataset=name, class_table=[])
    before = files_below(tmp_path)
    write_report(record, folder, {name: []})
    assert {f.split("/")[0] for f in files_below(tmp_path) - before} == {"reports"}
    assert {p.parent for p in folder.rglob("*") if p.is_file()} <= {folder, folder / "pictures"}


# -- classes and files of a dataset


def finalized_with(tmp_path: Path, file_name: str, classes: list[str]) -> Any:
    """A dataset with one image of that name, and one final label of each class."""
    import fiftyone as fo

    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / file_name
    Image.new("RGB", (40, 30), (9, 9, 9)).save(path, format="PNG")
    dataset = fo.Dataset()
    labels = [
        fo.Detection(label=name, bounding_box=[0.1, 0.1, 0.5, 0.5], confidence=0.9, run="run_1")
        for name in classes
    ]
    sample = fo.Sample(str(path), metadata=fo.ImageMetadata(width=40, height=30))
    sample["final"] = fo.Detections(detections=labels)
    dataset.add_sample(sample)
    return dataset


@pytest.mark.parametrize("format_name", FORMATS)
def test_tricky_names_stay_inside_or_are_refused(tmp_path: Path, format_name: str) -> None:
    classes = list(TRICKS.values())
    dataset = finalized_with(tmp_path, "a'b\"c\n$(touch x) <img>.png", classes)
    before = files_below(tmp_path)
    try:
        entry = export_labels(dataset, "final", format_name, tmp_path / "exports", "run_1")
        assert entry["verified"]  # read back and equal, whatever the names
        assert entry["labels"] == len(classes)
    except ExportError:
        assert not files_below(tmp_path) - before
    for place in files_below(tmp_path) - before:
        assert place.startswith(f"exports/run_1/{format_name}/"), place
    dataset.delete()


@pytest.mark.parametrize("format_name", ["coco", "yolov5", "voc"])
@pytest.mark.parametrize("name", TRICKS.values(), ids=TRICKS)
def test_each_tricky_class_alone(tmp_path: Path, name: str, format_name: str) -> None:
    dataset = finalized_with(tmp_path, "a.png", [name])
    before = files_below(tmp_path)
    try:
        assert export_labels(dataset, "final", format_name, tmp_path / "exports", "run_1")["verified"]
    except ExportError:
        assert not files_below(tmp_path) - before
    assert all(f.startswith("exports/run_1/") for f in files_below(tmp_path) - before)
    dataset.delete()


# -- links


def test_a_link_in_place_of_the_runs_folder_is_refused(final: str, tmp_path: Path, outside: Path) -> None:
    record = runs.load(final)
    record["config"]["output_dir"] = str(tmp_path / "reports")
    record["config"]["export"] = [{"format": "coco", "dir": str(tmp_path / "exports")}]
    for name in ("reports", "exports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / final).symlink_to(outside, target_is_directory=True)
    with pytest.raises(OutsideFolder, match=f"found a link to {outside}"):
        write_run_report(record)
    with pytest.raises(OutsideFolder, match=f"found a link to {outside}"):
        list(export_run(record, config_from_mapping(record["config"]).export))
    assert files_below(outside) == {"diary.txt"}


def test_a_link_in_place_of_the_export_is_refused(final: str, tmp_path: Path, outside: Path) -> None:
    record = runs.load(final)
    (tmp_path / "exports" / final).mkdir(parents=True)
    (tmp_path / "exports" / final / "coco").symlink_to(outside, target_is_directory=True)
    with pytest.raises(ExportError, match="found something else"):
        export_labels(database.dataset_of(record), record["label_field"], "coco", tmp_path / "exports", final)
    assert files_below(outside) == {"diary.txt"}


def link_the_page(folder: Path, outside: Path) -> None:
    (folder / "report.html").symlink_to(outside / "diary.txt")


def link_the_draft(folder: Path, outside: Path) -> None:
    (folder / ".report.html.part").symlink_to(outside / "diary.txt")


def link_the_pictures(folder: Path, outside: Path) -> None:
    (folder / "pictures").symlink_to(outside, target_is_directory=True)


def link_the_record(folder: Path, outside: Path) -> None:
    (folder / "run.json").symlink_to(outside / "diary.txt")


@pytest.mark.parametrize("plant", [link_the_page, link_the_draft, link_the_pictures, link_the_record])
def test_a_report_is_written_through_no_link(
    tmp_path: Path, outside: Path, plant: Callable[[Path, Path], None]
) -> None:
    folder = tmp_path / "reports" / "run_1"
    folder.mkdir(parents=True)
    plant(folder, outside)
    if plant is link_the_pictures:
        with pytest.raises(OutsideFolder, match="found a link to"):
            write_report(make_record(), folder, {})
    else:
        write_report(make_record(), folder, {})
        assert not (folder / "report.html").is_symlink()  # replaced, not followed
    assert (outside / "diary.txt").read_text() == "mine"
    assert files_below(outside) == {"diary.txt"}


def test_a_validation_page_is_written_through_no_link(tmp_path: Path, outside: Path) -> None:
    page = tmp_path / "validation-r1.html"
    page.symlink_to(outside / "diary.txt")
    write_inside(page, b"checked")
    assert (outside / "diary.txt").read_text() == "mine"
    assert page.read_bytes() == b"checked"
    assert not page.is_symlink()
    assert list(tmp_path.glob(".*.part")) == []


def test_what_a_dead_process_left_half_written_goes_with_the_next_write(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    page, host = tmp_path / "report.html", socket.gethostname()
    left = tmp_path / f".report.html.{host}.{dead.pid}.1.part"
    alive = tmp_path / f".report.html.{host}.{os.getpid()}.1.part"
    elsewhere = tmp_path / f".report.html.another-machine.{dead.pid}.1.part"
    for file in (left, alive, elsewhere):
        file.write_text("half")
    write_inside(page, b"whole")
    assert page.read_bytes() == b"whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (page, alive, elsewhere))
