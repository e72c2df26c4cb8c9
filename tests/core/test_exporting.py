"""Exports: equal to FiftyOne's own, read back, never half there, never over somebody else's files."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from PIL import Image

from valflow import database
from valflow.errors import ExportError
from valflow.exporting import FORMATS, by_fiftyone, coco, export_labels
from valflow.exporting.folders import MARKER
from valflow.exporting.media import unique_names
from valflow.label_types import DETECTIONS

OF_BOXES = [name for name, form in FORMATS.items() if DETECTIONS.name in form.holds]
RUN = "run_1"
WIDTH, HEIGHT = 40, 30


def label(
    name: str | None, box: tuple[float, ...], confidence: float | None = 0.9, **extra: Any
) -> dict[str, Any]:
    """A raw label as finalization leaves it."""
    entry = {"_id": ObjectId(), "_cls": "Detection", "tags": [], "attributes": {}, "label": name}
    entry |= {"bounding_box": list(box), "confidence": confidence, "run": RUN, "source": "auto"}
    return entry | extra


def random_label(rng: np.random.Generator, **extra: Any) -> dict[str, Any]:
    size = rng.uniform(0.2, 0.5, 2)
    box = (*(rng.uniform(0, 1, 2) * (1 - size)).tolist(), *size.tolist())
    return label(["cat", "dog", "bird"][rng.integers(3)], box, float(rng.random()), **extra)


@pytest.fixture
def make_dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Builds datasets of small real images with raw labels in ``final``, and deletes them afterwards."""

    def make(labels: list[list[dict[str, Any]] | None], *, metadata: bool = True, folders: int = 1) -> Any:
        dataset = fo.Dataset(f"exporting_{uuid.uuid4().hex}")
        request.addfinalizer(dataset.delete)
        samples = []
        for i in range(len(labels)):
            path = tmp_path / "images" / str(i % folders) / f"{i // folders:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (i, 2 * i, 3 * i)).save(path)
            size = fo.ImageMetadata(width=WIDTH, height=HEIGHT) if metadata else None
            samples.append(fo.Sample(str(path), metadata=size, tags=["night"]))
        dataset.add_samples(samples)
        dataset.add_sample_field("final", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        dataset.add_sample_field("other", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        collection = database.samples_of(dataset)
        for sample_id, found in zip(dataset.values("_id"), labels, strict=True):
            if found is not None:
                value = {"_cls": "Detections", "detections": found}
                collection.update_one({"_id": sample_id}, {"$set": {"final": value}})
        dataset.reload()
        return dataset

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., Any]) -> Any:
    """Six images: labels of the run on four of them, of another run on three, one never labelled."""
    rng = np.random.default_rng(0)
    labels: list[list[dict[str, Any]] | None] = [[random_label(rng) for _ in range(n)] for n in (3, 1, 4, 2)]
    labels[2].append(random_label(rng, run="earlier"))
    labels[3].insert(0, random_label(rng, run="earlier"))
    labels += [[random_label(rng, run="earlier")], None]
    return make_dataset(labels)


@pytest.mark.parametrize("name", OF_BOXES)
@pytest.mark.parametrize("media", ["copy", "symlink"])
def test_every_format_is_written_and_read_back(dataset: Any, tmp_path: Path, name: str, media: str) -> None:
    names = fo.list_datasets()
    before = list(database.samples_of(dataset).find())
    entry = export_labels(dataset, "final", name, tmp_path / "exports", RUN, media=media)
    folder = tmp_path / "exports" / RUN / name
    assert entry | {"files": 0} == {
        "format": name,
        "dir": str(folder),
        "scope": "run",
        "samples": 4,
        "labels": 10,
        "classes": ["bird", "cat", "dog"],
        "media": media,
        "files": 0,
        "verified": True,
    }
    assert entry["files"] == sum(1 for path in folder.rglob("*") if not path.is_dir()) - 1  # the marker
    assert json.loads((folder / MARKER).read_text())["run"] == RUN
    assert [path.name for path in folder.parent.iterdir()] == [name]
    assert fo.list_datasets() == names
    assert list(database.samples_of(dataset).find()) == before
    for path in folder.rglob("*"):
        if path.suffix in (".yaml", ".xml", ".json", ".txt"):
            assert b".partial" not in path.read_bytes(), path
    images = list(folder.rglob("*.png"))
    assert len(images) == 4
    assert all(path.is_symlink() == (media == "symlink") and path.exists() for path in images)


@pytest.mark.parametrize("name", OF_BOXES)
def test_an_export_can_be_loaded_from_its_place(dataset: Any, tmp_path: Path, name: str) -> None:
    entry = export_labels(dataset, "final", name, tmp_path / "exports", RUN)
    form = FORMATS[name]
    if form.type_name is None:
        pytest.skip("plain files, which FiftyOne does not read")
    loaded = fo.Dataset.from_dir(
        dataset_dir=entry["dir"], dataset_type=form.fiftyone_type(), **form.import_arguments("final")
    )
    try:
        assert len(loaded) == 4
        assert loaded.count("final.detections") == 10
        assert all(os.path.isfile(path) for path in loaded.values("filepath"))
        ours = set(dataset.count_values("final.detections.label"))
        assert set(loaded.count_values("final.detections.label")) <= ours
    finally:
        loaded.delete()


def coco_of_fiftyone(view: Any, folder: Path, **arguments: Any) -> dict[str, Any]:
    view.export(
        export_dir=str(folder), dataset_type=fo.types.COCODetectionDataset, label_field="final", **arguments
    )
    return json.loads((folder / "labels.json").read_text())


def comparable(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"info": content["info"] | {"date_created": None}}


@pytest.mark.parametrize(
    "extra",
    [
        {},  # boxes alone
        {"confidence": None},
        {"occluded": True, "track": "t1", "size": None},  # attributes of a model
        {"iscrowd": 1, "area": 12.0, "visible": False},  # attributes with a place of their own
        {"attributes": {"pose": {"_cls": "CategoricalAttribute", "value": "left"}}},  # FiftyOne's older ones
        {"index": 3, "tags": ["approved", "mine"]},
    ],
    ids=lambda extra: "-".join(extra) or "plain",
)
def test_coco_equals_fiftyones_exporter(
    make_dataset: Callable[..., Any], tmp_path: Path, extra: dict[str, Any]
) -> None:
    rng = np.random.default_rng(1)
    dataset = make_dataset(
        [[random_label(rng) | extra for _ in range(n)] for n in (2, 0, 3)] + [None], folders=2
    )
    dataset.info = {"year": 2026, "contributor": "us", "licenses": [{"id": 1, "name": "CC0"}], "more": 1}
    classes = ["dog", "cat", "bird", "fish"]
    entry = export_labels(dataset, "final", "coco", tmp_path / "ours", RUN, scope="field", classes=classes)
    # Without what the workflow adds, FiftyOne's exporter is the oracle.
    marks = {f"final.detections.$[].{name}": 1 for name in ("run", "source")}
    database.samples_of(dataset).update_many({"final.detections": {"$exists": True}}, {"$unset": marks})
    dataset.reload()
    theirs = coco_of_fiftyone(dataset.exists("final"), tmp_path / "theirs", classes=classes)
    ours = json.loads((Path(entry["dir"]) / "labels.json").read_text())
    assert comparable(ours) == comparable(theirs)
    assert sorted(os.listdir(Path(entry["dir"]) / "data")) == sorted(os.listdir(tmp_path / "theirs" / "data"))
    for image in theirs["images"]:
        here, there = Path(entry["dir"]) / "data", tmp_path / "theirs" / "data"
        assert (here / image["file_name"]).read_bytes() == (there / image["file_name"]).read_bytes()


@pytest.mark.parametrize("name", ["coco", "fiftyone", "voc", "cvat"])
def test_nothing_of_the_workflow_is_exported(
    make_dataset: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    rng = np.random.default_rng(2)
    extra = {"tags": ["approved", "audit", "mine"], "occluded": True, "source": "machine_made"}
    dataset = make_dataset([[random_label(rng, **extra) for _ in range(3)] for _ in range(2)])
    dataset.add_sample_field("final.detections.run", fo.StringField)
    dataset.clone_sample_field("final", "truth")
    dataset.evaluate_detections("final", "truth", "val_eval")
    dataset.tag_samples("inference_failed")
    entry = export_labels(dataset, "final", name, tmp_path, RUN)
    text = b"".join(
        p.read_bytes()
        for p in Path(entry["dir"]).rglob("*")
        if p.suffix in (".json", ".xml") and p.name != MARKER
    )
    for word in (b"val_eval", b"machine_made", RUN.encode(), b"approved", b"audit", b"inference_failed"):
        assert word not in text.replace(entry["dir"].encode(), b""), word
    assert b"occluded" in text
    if name == "fiftyone":
        assert b"mine" in text
        assert b"night" in text


@pytest.mark.parametrize(
    ("scope", "samples", "labels", "folder"),
    [("run", 4, 10, "coco"), ("field", 5, 13, "coco_field")],
    ids=["run", "field"],
)
def test_scope(dataset: Any, tmp_path: Path, scope: str, samples: int, labels: int, folder: str) -> None:
    entry = export_labels(dataset, "final", "coco", tmp_path, RUN, scope=scope)
    assert (entry["samples"], entry["labels"]) == (samples, labels)
    assert Path(entry["dir"]) == tmp_path / RUN / folder


def test_sample_ids_restrict(dataset: Any, tmp_path: Path) -> None:
    ids = dataset.values("id")
    entry = export_labels(dataset, "final", "coco", tmp_path, RUN, sample_ids=[ids[1], ids[4], ids[5]])
    assert (entry["samples"], entry["labels"]) == (1, 1)


@pytest.mark.parametrize("name", ["coco", "yolov5", "fiftyone", "fiftyone_detections"])
def test_class_list_is_pinned(dataset: Any, tmp_path: Path, name: str) -> None:
    classes = ["zebra", "dog", "cat", "bird"]
    entry = export_labels(dataset, "final", name, tmp_path, RUN, classes=classes)
    assert entry["classes"] == classes
    folder = Path(entry["dir"])
    if name == "coco":
        found = json.loads((folder / "labels.json").read_text())["categories"]
        assert [(c["id"], c["name"]) for c in found] == list(enumerate(classes, 1))
    if name == "yolov5":
        assert "0: zebra" in (folder / "dataset.yaml").read_text()


@pytest.mark.parametrize("name", OF_BOXES)
def test_a_run_without_labels_gives_an_empty_export(dataset: Any, tmp_path: Path, name: str) -> None:
    entry = export_labels(dataset, "final", name, tmp_path, "run_without_labels", classes=["cat"])
    assert (entry["samples"], entry["labels"], entry["verified"]) == (0, 0, True)


def test_images_of_the_same_name(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    dataset = make_dataset([[random_label(rng)] for _ in range(6)], folders=3)
    entry = export_labels(dataset, "final", "coco", tmp_path, RUN)
    folder = Path(entry["dir"])
    images = json.loads((folder / "labels.json").read_text())["images"]
    assert [i["file_name"] for i in images] == [
        "000.png", "000-2.png", "000-3.png", "001.png", "001-2.png", "001-3.png",
    ]  # fmt: skip
    for image, path in zip(images, dataset.values("filepath"), strict=True):
        assert (folder / "data" / image["file_name"]).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize(
    ("paths", "by_stem", "expected"),
    [
        (["/a/x.png", "/b/y.png"], False, ["x.png", "y.png"]),  # all different
        (["/a/x.png", "/b/x.png", "/c/x.png"], False, ["x.png", "x-2.png", "x-3.png"]),  # counted
        (["/a/x.png", "/b/x.png", "/c/x-2.png"], False, ["x.png", "x-2.png", "x-2-2.png"]),  # already given
        (["/a/x.png", "/a/x.jpg"], False, ["x.png", "x.jpg"]),  # other extension
        (["/a/x.png", "/a/x.jpg"], True, ["x.png", "x-2.jpg"]),  # one label file each
        ([], False, []),
    ],
)
def test_unique_names(paths: list[str], by_stem: bool, expected: list[str]) -> None:
    assert unique_names(paths, by_stem=by_stem) == expected


@pytest.mark.parametrize("name", ["coco", "fiftyone"])
def test_labels_alone(dataset: Any, tmp_path: Path, name: str) -> None:
    entry = export_labels(dataset, "final", name, tmp_path, RUN, media="none")
    assert not list(Path(entry["dir"]).rglob("*.png"))
    if name == "coco":
        images = json.loads((Path(entry["dir"]) / "labels.json").read_text())["images"]
        assert [i["file_name"] for i in images] == dataset.values("filepath")[:4]


def test_sizes_are_read_where_metadata_is_missing(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    dataset = make_dataset([[random_label(rng)]], metadata=False)
    entry = export_labels(dataset, "final", "coco", tmp_path, RUN)
    image = json.loads((Path(entry["dir"]) / "labels.json").read_text())["images"][0]
    assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert dataset.values("metadata") == [None]  # an export does not write to the dataset


@pytest.mark.parametrize("media", ["copy", "symlink", "none"])
def test_masks_become_polygons(make_dataset: Callable[..., Any], tmp_path: Path, media: str) -> None:
    detection = fo.Detection(
        label="cat", bounding_box=[0.2, 0.2, 0.4, 0.4], mask=np.ones((12, 16), dtype=bool)
    )
    dataset = make_dataset([[]])
    sample = dataset.first()
    sample["final"] = fo.Detections(detections=[detection])
    sample.save()
    entry = export_labels(dataset, "final", "coco", tmp_path, RUN, scope="field", media=media)
    annotation = json.loads((Path(entry["dir"]) / "labels.json").read_text())["annotations"][0]
    assert annotation["segmentation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "cocoo"}, "found 'cocoo'; did you mean 'coco'?"),
        ({"format": "YOLO5"}, "did you mean 'yolov5'?"),
        ({"format": "xyz"}, "expected an export format among coco, yolov5, .*, found 'xyz'$"),
        ({"scope": "all"}, "expected a scope among run, field, found 'all'"),
        ({"media": "move"}, "expected media among copy, symlink, none, found 'move'"),
        ({"format": "voc", "media": "none"}, "cannot be read without images"),
        ({"label_field": "nothing"}, "no such field; its fields of that type: final, other"),
        ({"label_field": "filepath"}, "found a field of another type"),
        (
            {"classes": ["cat", "dog"]},
            r"expected only the classes cat, dog in 'final', found also 'bird' \(\d labels\)",
        ),
        ({"classes": ["cat", "dog", "bird", "cat"]}, "expected every class once"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_refusals_write_nothing(
    dataset: Any, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    directory = tmp_path / "exports"
    usual = {"label_field": "final", "format": "coco", "directory": directory, "run_key": RUN}
    with pytest.raises(ExportError, match=message):
        export_labels(dataset, **(usual | arguments))
    assert not directory.exists()


def test_a_label_without_a_class_is_refused(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    dataset = make_dataset([[label(None, (0.1, 0.1, 0.2, 0.2))]])
    with pytest.raises(ExportError, match="found also None"):
        export_labels(dataset, "final", "coco", tmp_path / "exports", RUN)


@pytest.mark.parametrize(
    ("metadata", "media", "damage", "message"),
    [
        (True, "copy", os.remove, "found 1 missing"),  # nothing to copy
        (True, "symlink", os.remove, "found 1 missing"),
        (False, "none", os.remove, "found 1 without metadata whose file cannot be read"),  # no size
        (False, "copy", lambda path: Path(path).write_text("no image"), "found 1 without metadata"),
    ],
    ids=["copy", "symlink", "size", "corrupt"],
)
def test_missing_images_are_named(
    make_dataset: Callable[..., Any],
    tmp_path: Path,
    metadata: bool,
    media: str,
    damage: Callable[[str], Any],
    message: str,
) -> None:
    rng = np.random.default_rng(5)
    dataset = make_dataset([[random_label(rng)] for _ in range(2)], metadata=metadata)
    path = dataset.values("filepath")[1]
    damage(path)
    with pytest.raises(ExportError, match=message) as caught:
        export_labels(dataset, "final", "coco", tmp_path / "exports", RUN, media=media)
    assert path in str(caught.value)
    assert not (tmp_path / "exports").exists()


def test_a_repeated_export_replaces_its_own_folder(dataset: Any, tmp_path: Path) -> None:
    first = export_labels(dataset, "final", "coco", tmp_path, RUN)
    (Path(first["dir"]) / "stale.txt").write_text("from before")
    leftover = tmp_path / RUN / ".coco.01234567.partial"
    leftover.mkdir()
    assert export_labels(dataset, "final", "coco", tmp_path, RUN) == first
    assert not (Path(first["dir"]) / "stale.txt").exists()
    assert [path.name for path in (tmp_path / RUN).iterdir()] == ["coco"]
    with pytest.raises(ExportError, match="found an earlier one of run 'run_1'"):
        export_labels(dataset, "final", "coco", tmp_path, RUN, overwrite_own=False)


def somebodys_folder(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years of work")


def somebodys_file(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("years of work")


def another_runs_export(place: Path) -> None:
    place.mkdir(parents=True)
    (place / MARKER).write_text(json.dumps({"run": "other"}))


def broken_marker(place: Path) -> None:
    place.mkdir(parents=True)
    (place / MARKER).write_text("[]")


def link_elsewhere(place: Path) -> None:
    somebodys_folder(place.parent.parent / "elsewhere")
    place.parent.mkdir(parents=True)
    place.symlink_to(place.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "occupy", [somebodys_folder, somebodys_file, another_runs_export, broken_marker, link_elsewhere]
)
@pytest.mark.parametrize("name", ["coco", "voc"])
def test_somebody_elses_folder_is_never_touched(
    dataset: Any, tmp_path: Path, occupy: Callable[[Path], None], name: str
) -> None:
    occupy(tmp_path / RUN / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ExportError, match="found something else; nothing was written"):
        export_labels(dataset, "final", name, tmp_path, RUN)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_may_be_used(dataset: Any, tmp_path: Path) -> None:
    (tmp_path / RUN / "coco").mkdir(parents=True)
    assert export_labels(dataset, "final", "coco", tmp_path, RUN)["verified"]


def drop_an_image(content: dict[str, Any]) -> None:
    gone = content["images"].pop()["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]


def move_a_label(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = content["images"][-1]["id"]


def change_a_class(content: dict[str, Any]) -> None:
    entry = content["annotations"][0]
    entry["category_id"] = entry["category_id"] % 3 + 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_an_image, "number of samples: expected 4, found 3"),
        (lambda content: content["annotations"].pop(), "number of labels: expected 10, found 9"),
        (lambda content: content["categories"].reverse(), "classes: expected"),
        (move_a_label, "image of each label"),
        (change_a_class, "class of each label"),
        (lambda content: content["annotations"][3]["bbox"].__setitem__(2, 1.0), "boxes are not the same"),
        (lambda content: content["images"][1].update(file_name="elsewhere.png"), "image files"),
        (lambda content: content["images"][1].update(width=1), "sizes"),
    ],
)  # fmt: skip
def test_a_coco_file_that_differs_does_not_count(
    dataset: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    earlier = export_labels(dataset, "final", "coco", tmp_path, RUN)
    before = (Path(earlier["dir"]) / "labels.json").read_bytes()
    write = coco.write

    def write_badly(selection: Any, folder: Path, *rest: Any) -> Any:
        written = write(selection, folder, *rest)
        content = json.loads((folder / "labels.json").read_text())
        spoil(content)
        (folder / "labels.json").write_text(json.dumps(content))
        return written

    monkeypatch.setattr(coco, "write", write_badly)
    with pytest.raises(ExportError, match=message):
        export_labels(dataset, "final", "coco", tmp_path, RUN)
    assert (Path(earlier["dir"]) / "labels.json").read_bytes() == before  # the earlier export stays
    assert [path.name for path in (tmp_path / RUN).iterdir()] == ["coco"]


def replace_in(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = sorted(folder.rglob(pattern))[0]
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("yolov5", lambda folder: sorted(folder.rglob("*.txt"))[0].write_text(""), "labels of 000.png"),
        ("yolov5", replace_in("*.yaml", "0: bird", "0: fowl"), "classes: expected bird, cat, dog"),
        ("yolov5", lambda folder: sorted(folder.rglob("*.png"))[0].unlink(), "samples: expected 4, found 3"),
        ("voc", replace_in("*.xml", "<xmin>", "<xmin>1"), "boxes: label 0"),
        ("cvat", replace_in("labels.xml", 'xtl="', 'xtl="1'), "boxes: label 0"),
    ],
    ids=["label", "class", "image", "voc box", "cvat box"],
)
def test_a_file_of_fiftyone_that_differs_does_not_count(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Any, message: str
) -> None:
    write = by_fiftyone.write

    def write_badly(selection: Any, folder: Path, *rest: Any) -> Any:
        written = write(selection, folder, *rest)
        spoil(folder)
        return written

    monkeypatch.setattr(by_fiftyone, "write", write_badly)
    names = fo.list_datasets()
    with pytest.raises(ExportError, match=message):
        export_labels(dataset, "final", name, tmp_path, RUN)
    assert not list((tmp_path / RUN).iterdir())
    assert fo.list_datasets() == names


def test_a_crash_leaves_nothing_behind(dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("valflow.exporting.coco.place_media", full)
    with pytest.raises(OSError, match="no space left"):
        export_labels(dataset, "final", "coco", tmp_path, RUN)
    assert not list((tmp_path / RUN).iterdir())
