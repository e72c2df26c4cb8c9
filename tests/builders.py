"""Real datasets and runs in any state, small and the same every time, without Prefect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bson
from bson import ObjectId
from PIL import Image

from valflow import audits, database, decisions, inference, opening, promotion, runs, triage
from valflow.config import LabelingConfig, config_from_mapping
from valflow.states import Event, State

# Per sample: class and confidence of each label, from left to right. Two stand above the usual threshold of 0.7.
PREDICTED: tuple[tuple[str, float | None], ...] = (("cat", 0.95), ("dog", 0.8), ("cat", 0.6), ("dog", 0.3))
WIDTH, HEIGHT = 80, 60

_numbers = itertools.count(1)


def box(place: int) -> list[float]:
    """The n-th box of an image, from left to right; five fit side by side without touching."""
    return [0.02 + 0.19 * place, 0.1, 0.15, 0.5]


def make_dataset(
    folder: Path,
    *,
    samples: int = 4,
    predictions: Sequence[Sequence[tuple[str, float | None]]] | None = None,
    empty: int = 1,
    name: str | None = None,
    with_truth: bool = True,
) -> Any:
    """A persistent dataset of PNG images with the fields ``pred`` and ``ground_truth``.

    Args:
        folder: where the images go.
        samples: number of images, those without predictions included.
        predictions: classes and confidences per sample; by default ``PREDICTED`` on each.
        empty: so many of the last samples have no predictions.
        name: of the dataset; by default a fresh one.
        with_truth: whether there is ground truth: what was predicted with 0.5 or more, and a bird on each image.
    """
    import fiftyone as fo

    dataset = fo.Dataset(name or f"pets-{next(_numbers)}", persistent=True)
    if predictions is None:
        predictions = [PREDICTED] * (samples - empty) + [()] * empty
    add_samples(dataset, folder, predictions, with_truth=with_truth)
    return dataset


def add_samples(
    dataset: Any,
    folder: Path,
    predictions: Sequence[Sequence[tuple[str, float | None]]],
    *,
    with_truth: bool = True,
) -> list[str]:
    """Grow a dataset; returns the ids of the new samples."""
    import fiftyone as fo

    added = []
    for number, labels in enumerate(predictions, len(dataset)):
        path = folder / f"{dataset.name}-{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (number * 16 % 256, 90, 120)).save(path)
        found = [
            fo.Detection(label=label, bounding_box=box(place), confidence=confidence)
            for place, (label, confidence) in enumerate(labels)
        ]
        sample = fo.Sample(str(path), pred=fo.Detections(detections=found))
        if with_truth:
            true = [
                fo.Detection(label=label, bounding_box=box(place))
                for place, (label, confidence) in enumerate(labels)
                if confidence is not None and confidence >= 0.5
            ]
            bird = fo.Detection(label="bird", bounding_box=[0.1, 0.7, 0.2, 0.2])
            sample["ground_truth"] = fo.Detections(detections=[*true, bird])
        added.append(sample)
    return list(dataset.add_samples(added))


def make_config(dataset: Any, **changes: Any) -> LabelingConfig:
    """A configuration that labels ``auto`` from the field ``pred``."""
    folder = Path(dataset.first().filepath).parent if len(dataset) else Path.cwd()
    values = {
        "dataset": dataset.name,
        "label_field": "auto",
        "model": {"kind": "field", "field": "pred"},
        "output_dir": str(folder / "runs"),
    }
    return config_from_mapping({**values, **changes})


def make_run(dataset: Any, state: State | str = State.IN_REVIEW, **changes: Any) -> str:
    """Open a run by the field model and bring it to ``state``; returns its key.

    Args:
        dataset: of ``make_dataset``.
        state: CREATED, PREDICTED, IN_REVIEW, REVIEWED, VALIDATED, FINALIZED, DISCARDED or FAILED (in inference).
        changes: settings that differ from ``make_config``.
    """
    opened = opening.open_run(make_config(dataset, **changes))
    assert opened.outcome == "run", opened
    assert opened.run is not None
    bring_to(opened.run, dataset, state)
    return opened.run


def bring_to(run: str, dataset: Any, state: State | str = State.IN_REVIEW) -> runs.Record:
    """Walk a run on from where it stands until it is in ``state``."""
    wanted = State(state)
    record = opening.prepare(runs.load(run), dataset)
    if wanted is State.FAILED:
        changes = {"failed_from": "CREATED", "failed_stage": "infer", "error": "RuntimeError: a test"}
        return runs.transition(record, Event.FAIL, actor="system", changes=changes)
    if wanted is State.DISCARDED:
        return decisions.submit(run, decisions.Decision("discard", "ann"))
    steps = {
        State.CREATED: infer,
        State.PREDICTED: review,
        State.IN_REVIEW: decide,
        State.REVIEWED: accept,
        State.VALIDATED: promotion.promote,
    }
    while record["state"] != wanted.value:
        record = steps[State(record["state"])](record, dataset)
    return record


def infer(record: runs.Record, dataset: Any) -> runs.Record:
    """CREATED → PREDICTED."""
    for shard in range(record["target"]["shards"]):
        inference.infer_shard(record["run"], shard)
    return inference.finish_inference(runs.load(record["run"]))


def review(record: runs.Record, dataset: Any) -> runs.Record:
    """PREDICTED → IN_REVIEW, without the checks of suites."""
    triage.begin_triage(record, dataset)
    return triage.finish_triage(record, dataset)


def decide(record: runs.Record, dataset: Any) -> runs.Record:
    """IN_REVIEW → REVIEWED: a spot-check in which all is well, where one is due, and a decision."""
    if audits.needs_draw(record, audits.latest(record["run"])):
        judge_all(record["run"])
    return decisions.submit(record["run"], decisions.Decision("finalize", "ann"))


def accept(record: runs.Record, dataset: Any) -> runs.Record:
    """REVIEWED → VALIDATED, as when the suites passed."""
    return runs.transition(record, Event.VALIDATE, actor="policy")


def judge_all(run: str, verdict: str = "correct") -> audits.Audit:
    """Draw a spot-check, repeatably, and give every label the same verdict."""
    audit = audits.draw(run, "ann", seed=1)
    return audits.judge(run, {item["number"]: verdict for item in audit["items"]}, "ann")


def entries(run: str) -> dict[str, dict[str, Any]]:
    """Every ledger entry of a run by label id, with its ``sample_id``."""
    return {
        str(entry["_id"]): {**entry, "sample_id": str(document["sample_id"])}
        for document in database.ledger().find({"run": run}).sort("sample_id", 1)
        for entry in document.get("labels", [])
    }


def ids_where(run: str, **wanted: Any) -> list[str]:
    """Ids of the labels whose ledger entries hold these values, e.g. ``state="approved", label="cat"``."""
    return [i for i, e in entries(run).items() if all(e.get(k) == v for k, v in wanted.items())]


def counts(run: str) -> dict[str, int]:
    """Labels by state."""
    states = [e["state"] for e in entries(run).values()]
    return {state: states.count(state) for state in ("approved", "rejected", "undecided")}


def documents(dataset: Any) -> dict[str, dict[str, Any]]:
    """The raw documents of the samples, by id."""
    return {str(d["_id"]): d for d in database.samples_of(dataset).find().sort("_id", 1)}


def everything_stored() -> dict[str, Any]:
    """What all collections hold, as digests; FiftyOne itself notes when a dataset was loaded last."""
    db = database.connection()
    digests: dict[str, Any] = dict(db.command("dbHash")["collections"])
    # As bytes: a NaN is not equal to itself.
    digests["datasets"] = [
        bson.encode(d) for d in db["datasets"].find({}, {"last_loaded_at": 0}).sort("_id", 1)
    ]
    return digests


def labels_in(dataset: Any, field: str) -> dict[str, dict[str, Any]]:
    """The raw labels in a field, by id."""
    return {
        str(label["_id"]): label
        for document in documents(dataset).values()
        for label in (document.get(field) or {}).get("detections") or []
    }


def edit_label(dataset: Any, field: str, label_id: str, **changes: Any) -> None:
    """Change a label as a person does: on its sample, with ``sample.save()``."""
    dataset.reload()
    sample = dataset[_holder(dataset, field, label_id)]
    label = next(d for d in sample[field].detections if d.id == label_id)
    for name, value in changes.items():
        label[name] = value
    sample.save()


def remove_label(dataset: Any, field: str, label_id: str) -> None:
    """Delete a label from its sample."""
    database.samples_of(dataset).update_one(
        {f"{field}.detections._id": ObjectId(label_id)},
        {"$pull": {f"{field}.detections": {"_id": ObjectId(label_id)}}},
    )
    dataset.reload()


def draw_label(dataset: Any, field: str, sample_id: str, label: str = "bird") -> str:
    """Draw a label by hand, as the App does: an id of its own, no confidence."""
    import fiftyone as fo

    dataset.reload()
    sample = dataset[sample_id]
    drawn = fo.Detection(label=label, bounding_box=box(4))
    if sample[field] is None:
        sample[field] = fo.Detections()
    sample[field].detections.append(drawn)
    sample.save()
    return str(drawn.id)


def _holder(dataset: Any, field: str, label_id: str) -> str:
    found = database.samples_of(dataset).find_one({f"{field}.detections._id": ObjectId(label_id)}, {"_id": 1})
    assert found is not None, f"no sample holds label {label_id} in {field}"
    return str(found["_id"])


def outcomes_of(run: str) -> dict[str, tuple[str, str | None]]:
    """``(status, reason)`` of each sample that a run has looked at."""
    return {
        str(d["sample_id"]): (d["status"], d["reason"])
        for d in database.ledger().find({"run": run}).sort("sample_id", 1)
    }


def forget_what_was_made() -> Iterator[None]:
    """Around a test that makes large datasets: takes them and their runs away, for tests that look at everything."""
    import fiftyone as fo

    names, keys = set(fo.list_datasets()), set(database.runs().distinct("run"))
    yield
    for name in set(fo.list_datasets()) - names:
        fo.delete_dataset(name)
    made = {"run": {"$in": list(set(database.runs().distinct("run")) - keys)}}
    for collection in (database.ledger(), database.targets(), database.actions(), database.audits()):
        collection.delete_many(made)
    database.copied().delete_many({})
    database.copies().delete_many({})
    database.runs().delete_many(made)
