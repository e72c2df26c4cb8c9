"""Bad files, bad sizes and datasets of the wrong kind, through every stage: told with a reason, never passed over."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from PIL import Image

from tasks.evaluate import measure_run
from tasks.export import export_missing
from tasks.triage import decide_by_policy
from tasks.validate import pass_gate
from tests.builders import (
    box,
    documents,
    entries,
    everything_stored,
    forget_what_was_made,
    labels_in,
    make_config,
    make_dataset,
    make_run,
    outcomes_of,
)
from valflow import actions, database, decisions, intake, opening, promotion, runs
from valflow.cli import main as valflow
from valflow.errors import ConfigError, ExportError, PromotionError
from valflow.exporting import export_labels
from valflow.image_files import problem_of
from valflow.preflight import check
from valflow.reporting import write_run_report
from valflow.review_app import workspace_name
from valflow.selections import Selection
from valflow.validation import output_folder

CHECKLESS = {"checklist": []}

alone = pytest.fixture(autouse=True)(forget_what_was_made)


def walk(run: str, dataset: Any) -> runs.Record:
    """PREDICTED to the report, everything approved that waits; stops where the gate refuses."""
    decide_by_policy(run)
    waiting = [i for i, e in entries(run).items() if e["state"] == "undecided" and not e["invalid"]]
    if waiting:
        actions.approve(run, Selection(label_ids=tuple(waiting)), "ann")
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    if not pass_gate(run).passed:
        return runs.load(run)
    promotion.promote(runs.load(run), dataset)
    if runs.load(run)["config"]["evaluation"]:
        measure_run(run)
    for _ in export_missing(run):
        pass
    write_run_report(runs.load(run))
    return runs.load(run)


# -- files


def bomb(path: Path) -> None:
    """A PNG of some bytes whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def cut(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.effect_noise((200, 100), 80).convert("RGB").save(path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "deleted": (Path.unlink, "no such file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "no such file"),
    "zero bytes": (lambda p: p.write_bytes(b""), "an empty file"),
    "text": (lambda p: p.write_text("not an image"), "not a readable image"),
    "a bomb": (bomb, "too large to be read"),
    "half a png": (cut("PNG"), "its end is missing"),
    "half a jpeg": (cut("JPEG"), "its end is missing"),
    "half a gif": (cut("GIF"), "not a readable image"),
}


@pytest.fixture
def with_bad_files(tmp_path: Path) -> Any:
    """A good image, then one of each kind of bad ones, a label on each."""
    dataset = make_dataset(tmp_path, predictions=[[("cat", 0.95)]] * (1 + len(FILES)))
    for path, (spoil, _) in zip(dataset.values("filepath")[1:], FILES.values(), strict=True):
        spoil(Path(path))
    return dataset


def test_files_that_no_model_can_read_are_counted_with_their_reason(with_bad_files: Any) -> None:
    python = {"kind": "python", "path": "tests.models:Corner"}
    changes = {"model": python, "max_failed_share": 1.0, "review": CHECKLESS}
    run = make_run(with_bad_files, "PREDICTED", **changes)
    found = [outcomes_of(run)[i] for i in with_bad_files.values("id")]
    assert found[0] == ("labelled", None)
    for (status, reason), (name, (_, why)) in zip(found[1:], FILES.items(), strict=True):
        assert status == "failed", name
        assert why in str(reason), name
    assert walk(run, with_bad_files)["counts"]["finalized"] == 1


def test_labels_on_files_that_nobody_can_read_do_not_become_final(with_bad_files: Any) -> None:
    run = make_run(with_bad_files, "PREDICTED", review=CHECKLESS)
    record = walk(run, with_bad_files)
    assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
    reasons = {e["sample_id"]: " ".join(e["invalid"]) for e in entries(run).values()}
    marked = [reasons[i] for i in with_bad_files.values("id")]
    assert marked[0] == ""
    for words, (name, (_, why)) in zip(marked[1:], FILES.items(), strict=True):
        if name == "half a gif":  # its header is whole, and nothing is decoded here
            assert words == ""
        else:
            assert ("must exist" if why == "no such file" else why) in words, name
    assert labels_in(with_bad_files, "auto") == {}


def test_whole_images_have_no_problem(tmp_path: Path) -> None:
    image = Image.effect_noise((200, 100), 80).convert("RGB")
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        path = tmp_path / f"whole.{kind.lower()}"
        image.save(path, kind)
        assert problem_of(str(path)) is None, kind
    # What cameras and editors append is no problem either.
    jpeg = tmp_path / "whole.jpeg"
    jpeg.write_bytes(jpeg.read_bytes() + bytes(5000))
    assert problem_of(str(jpeg)) is None


def test_a_cut_jpeg_is_known_behind_its_thumbnail(tmp_path: Path) -> None:
    path, small = tmp_path / "a.jpg", tmp_path / "small.jpg"
    image = Image.effect_noise((400, 300), 80).convert("RGB")
    image.resize((40, 30)).save(small)
    whole = Image.new("RGB", (1, 1)).getexif()
    whole[0x010E] = "a note"
    image.save(path, exif=b"Exif\x00\x00" + small.read_bytes())
    assert problem_of(str(path)) is None
    path.write_bytes(path.read_bytes()[:-3000])
    assert problem_of(str(path)) == "its end is missing"


NAMES = {
    "space": "a b c.png",
    "quotes": 'it\'s "here".png',
    "newline": "two\nlines.png",
    "percent": "100%20.png",
    "hash": "no#1.png",
    "question": "what?x=1.png",
    "unicode": "größe_猫_קטע.png",
    "decomposed": "cafe\u0301.png",
    "dash": "-rf.png",
    "brackets": "[1]{2}(3)*.png",
    "semicolon": "a;b,c.png",
    "long": "x" * 200 + ".png",
}
FORMATS = ("coco", "yolov5", "voc", "cvat", "fiftyone")


def test_files_of_any_name_go_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fiftyone as fo

    dataset = make_dataset(tmp_path, predictions=[])
    samples = []
    for name in NAMES.values():
        folder = tmp_path / f"in {name.removesuffix('.png')[:40]}"
        folder.mkdir()
        Image.new("RGB", (80, 60)).save(folder / name)
        found = fo.Detections(detections=[fo.Detection(label="cat", bounding_box=box(0), confidence=0.9)])
        samples.append(fo.Sample(str(folder / name), pred=found))
    dataset.add_samples(samples)
    formats = [f for f in FORMATS if f != "cvat"]
    exports = [{"format": f, "dir": str(tmp_path / "ex ports #1")} for f in formats]
    output = {"output_dir": str(tmp_path / 'run\'s "files"'), "export": exports}
    run = make_run(dataset, "PREDICTED", review=CHECKLESS, **output)
    record = walk(run, dataset)
    assert record["state"] == "FINALIZED", record.get("validation")
    assert [(e["format"], e["labels"], e["verified"]) for e in record["exports"]] == [
        (f, len(NAMES), True) for f in formats
    ]
    # FiftyOne's exporter writes broken XML of such names: refused with the reason, nothing is put in place.
    with pytest.raises(ExportError, match="expected names without"):
        export_labels(dataset, "auto", "cvat", tmp_path / "more", run)
    assert not list((tmp_path / "more").rglob("*.xml"))
    assert (output_folder(record) / "report.html").is_file()
    assert valflow(["show", run]) == 0
    assert run in capsys.readouterr().out


# -- sizes


def test_five_thousand_labels_on_one_image(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, predictions=[[], [("cat", 0.9)]])
    labels = [
        {
            "_id": ObjectId(),
            "_cls": "Detection",
            "label": f"class {n % 7}",
            "bounding_box": [(n % 100) / 100, n // 100 / 50, 0.009, 0.019],
            "confidence": 0.8,
            "tags": [],
        }
        for n in range(5000)
    ]
    first = ObjectId(dataset.first().id)
    database.samples_of(dataset).update_one({"_id": first}, {"$set": {"pred.detections": labels}})
    changes = {"review": CHECKLESS, "export": [{"format": "coco", "dir": str(tmp_path / "exports")}]}
    refused = walk(make_run(dataset, "PREDICTED", **changes), dataset)
    assert refused["state"] == "IN_REVIEW"
    (check_failed,) = [c for c in refused["validation"]["checks"] if c["blocks"]]
    assert "number of labels of a sample" in check_failed["title"]
    decisions.submit(refused["run"], decisions.Decision("discard", "ann"))
    more = {**changes, "validation": {"max_labels_per_sample": 6000}}
    record = walk(make_run(dataset, "PREDICTED", **more), dataset)
    assert record["state"] == "FINALIZED"
    assert record["verification"]["written"] == 5001
    assert record["exports"][0]["labels"] == 5001


def test_twenty_thousand_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path, predictions=[[("cat", 0.9)]] * 40)
    for number, sample_id in enumerate(documents(dataset)):
        labels = [
            {
                "_id": ObjectId(),
                "_cls": "Detection",
                "label": f"species $ {number * 500 + n}. of a long list",
                "bounding_box": [(n % 50) / 50, n // 50 / 10, 0.019, 0.09],
                "confidence": 0.8,
                "tags": [],
            }
            for n in range(500)
        ]
        database.samples_of(dataset).update_one(
            {"_id": ObjectId(sample_id)},
            {"$set": {"pred.detections": labels}},
        )
    changes = {"review": CHECKLESS, "export": [{"format": "coco", "dir": str(tmp_path / "exports")}]}
    record = walk(make_run(dataset, "PREDICTED", **changes), dataset)
    assert record["state"] == "FINALIZED", record.get("validation")
    assert len(record["class_table"]) == 20_000
    assert record["verification"]["written"] == 20_000
    page = output_folder(record) / "report.html"
    assert page.stat().st_size < 20_000_000
    assert valflow(["show", record["run"]]) == 0
    shown = capsys.readouterr().out
    assert "more classes" in shown
    assert len(shown.splitlines()) < 300


@pytest.mark.parametrize(
    ("sample_mb", "label_mb", "status", "why"),
    [
        pytest.param(1.0, 0.001, "labelled", None, id="small"),
        pytest.param(15.0, 0.001, "labelled", None, id="nearly full"),
        pytest.param(
            16.6, 0.001, "failed", "a document of MongoDB ends at 16.8 MB", id="too full for labels"
        ),
        pytest.param(0.1, 5.0, "labelled", None, id="large labels"),
        pytest.param(0.1, 6.0, "failed", "kept twice", id="labels too large to keep twice"),
    ],
)
def test_documents_near_the_limit(
    tmp_path: Path, sample_mb: float, label_mb: float, status: str, why: str | None
) -> None:
    dataset = make_dataset(tmp_path, predictions=[[("cat", 0.9)], [("cat", 0.9)]])
    import fiftyone as fo

    dataset.add_sample_field("note", fo.StringField)
    dataset.add_sample_field("pred.detections.text", fo.StringField)
    first = dataset.first().id
    megabyte = 1_000_000
    database.samples_of(dataset).update_one(
        {"_id": ObjectId(first)},
        {
            "$set": {
                "note": "x"
                * int((sample_mb - 0.01) * megabyte - (label_mb * megabyte if label_mb < 1 else 0)),
                "pred.detections.0.text": "x" * int(label_mb * megabyte),
            }
        },
    )
    run = make_run(dataset, "PREDICTED", review=CHECKLESS, max_failed_share=0.6)
    found, reason = outcomes_of(run)[first]
    assert found == status, reason
    assert (why or "") in (reason or "")
    record = walk(run, dataset)
    assert record["state"] == "FINALIZED"
    assert record["counts"]["finalized"] == (2 if status == "labelled" else 1)


# -- datasets


def _grouped(dataset: Any, folder: Path) -> None:
    import fiftyone as fo

    dataset.add_group_field("group", default="left")
    group = fo.Group()
    dataset.add_samples(
        [fo.Sample(str(folder / f"{side}.png"), group=group.element(side)) for side in ("left", "right")]
    )


def _of(file: str) -> Callable[[Any, Path], None]:
    def add(dataset: Any, folder: Path) -> None:
        import fiftyone as fo

        (folder / file).write_bytes(b"something")
        dataset.add_sample(fo.Sample(str(folder / file)))

    return add


KINDS = {
    "grouped": (_grouped, "media of type 'group'"),
    "video": (_of("film.mp4"), "media of type 'video'"),
    "scenes": (_of("scene.fo3d"), "media of type '3d'"),
    "point clouds": (_of("cloud.pcd"), "media of type 'point-cloud'"),
    "of unknown files": (_of("letter.docx"), "media of type 'unknown'"),
}


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("kind", ["field", "python"])
def test_other_datasets_are_refused_before_anything_is_written(
    case: tuple[Callable[[Any, Path], None], str], kind: str, tmp_path: Path
) -> None:
    import fiftyone as fo

    dataset = fo.Dataset(f"other-{tmp_path.name}", persistent=True)
    case[0](dataset, tmp_path)
    dataset.add_sample_field("pred", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    model = {"kind": "field", "field": "pred"}
    if kind == "python":
        model = {"kind": "python", "path": "tests.models:Corner"}
    config = make_config(dataset, model=model, output_dir=str(tmp_path / "runs"))
    before, files = everything_stored(), sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=case[1]):
        opening.open_run(config)
    assert everything_stored() == before
    assert sorted(tmp_path.rglob("*")) == files
    fo.delete_dataset(dataset.name)


def test_an_empty_dataset_has_nothing_to_label(tmp_path: Path) -> None:
    import fiftyone as fo

    dataset = fo.Dataset(f"empty-{tmp_path.name}", persistent=True)
    dataset.add_sample_field("pred", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    config = make_config(dataset, output_dir=str(tmp_path / "runs"))
    before = everything_stored()
    assert opening.open_run(config).outcome == "nothing_new"
    assert everything_stored() == before


def test_fields_without_labels_are_empty_samples(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, predictions=[[("cat", 0.9)]] * 5)
    values = [None, {"_cls": "Detections"}, {"_cls": "Detections", "detections": None}]
    values.append({"_cls": "Detections", "detections": []})
    for sample_id, value in zip(documents(dataset), values, strict=False):
        database.samples_of(dataset).update_one({"_id": ObjectId(sample_id)}, {"$set": {"pred": value}})
    run = make_run(dataset, "PREDICTED", review=CHECKLESS)
    assert [s for s, _ in outcomes_of(run).values()] == ["empty"] * 4 + ["labelled"]
    assert walk(run, dataset)["counts"]["finalized"] == 1


def test_samples_without_metadata_are_exported_and_evaluated(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    assert all(d.get("metadata") is None for d in documents(dataset).values())
    exports = [{"format": f, "dir": str(tmp_path / "exports")} for f in FORMATS]
    changes = {"export": exports, "evaluation": {"ground_truth": "ground_truth"}, "review": CHECKLESS}
    record = walk(make_run(dataset, "PREDICTED", **changes), dataset)
    assert [e["verified"] for e in record["exports"]] == [True] * len(FORMATS)
    assert record["metrics"]["run"]["approved"]["labels"] == 12


# -- ids


def test_a_label_doubled_in_the_review_field_is_refused_by_the_gate(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, samples=2, empty=0)
    run = make_run(dataset, "PREDICTED", review=CHECKLESS)
    decide_by_policy(run)
    first = documents(dataset)[dataset.first().id]
    doubled = first["auto_in_review"]["detections"][0]
    database.samples_of(dataset).update_one(
        {"_id": first["_id"]}, {"$push": {"auto_in_review.detections": doubled}}
    )
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    assert not pass_gate(run).passed
    record = runs.load(run)
    assert record["state"] == "IN_REVIEW"
    assert any(
        "no two labels may share an id" in c["title"] for c in record["validation"]["checks"] if c["blocks"]
    )
    assert labels_in(dataset, "auto") == {}


def test_a_label_whose_id_stands_in_the_label_field_already_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    dataset = make_dataset(tmp_path, samples=2, empty=0)
    dataset.clone_sample_field("ground_truth", "auto")
    run = make_run(dataset, "VALIDATED", append=True)
    first = documents(dataset)[dataset.first().id]
    taken = first["auto_in_review"]["detections"][0]
    database.samples_of(dataset).update_one({"_id": first["_id"]}, {"$push": {"auto.detections": taken}})
    before = documents(dataset)
    with pytest.raises(PromotionError, match=f"1 of the labels .* label field already: {taken['_id']}"):
        promotion.promote(runs.load(run), dataset)
    assert documents(dataset) == before
    assert runs.load(run)["state"] == "VALIDATED"


# -- what is left behind


def test_workspaces_of_ended_runs_go_when_the_next_review_opens(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for _ in range(3):
        run = make_run(dataset, "PREDICTED")
        decide_by_policy(run)
        decisions.submit(run, decisions.Decision("discard", "ann"))
    last = make_run(dataset, "PREDICTED")
    decide_by_policy(last)
    dataset.reload()
    assert dataset.list_workspaces() == [workspace_name(last)]
    assert "workspace" in runs.load(last)
    assert "workspace" not in runs.load(run)


# -- all told


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    dataset = make_dataset(
        tmp_path, predictions=[[("cat", 0.9), ("dog", 0.9), ("cat", 0.05)], [("bird", 0.01), ("cat", 0.9)]]
    )
    run = make_run(dataset, "PREDICTED", classes=["cat"])
    assert runs.load(run)["intake"] == {"below_floor": 2, "other_class": 1}
    assert intake.sentences_of(runs.load(run)) == [
        "2 labels below min_confidence were left out",
        "1 label of classes that `classes` does not name were left out",
    ]
    check(make_config(dataset, classes=["cat"], run_key=run), [])
