"""Finalization: the frozen labels become the label field, batch by batch, whatever dies in between.

Every step is harmless when repeated. A run that is FINALIZING is finished by running it again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from bson import ObjectId

from valflow import database, references, runs, safety_copies
from valflow.decisions import drop_staging
from valflow.errors import PromotionError
from valflow.fingerprints import changed_samples
from valflow.freezing import digest_of
from valflow.inference import declare_field
from valflow.label_types import label_type_of
from valflow.ledger import problem_tag_counts, sample_tags
from valflow.schema_changes import changing, is_declared
from valflow.states import Event, State, advance, is_past

BATCH = 1000
_NOTED_AT_ONCE = 10_000

Progress = Callable[[int], object]


def promote(record: runs.Record, dataset: Any, progress: Progress | None = None) -> runs.Record:
    """Move the frozen approved labels of a validated run into its label field.

    Args:
        record: a run that is VALIDATED, or FINALIZING after a crash.
        dataset: its FiftyOne dataset.
        progress: called after each batch with its number of samples.

    Returns:
        The record, FINALIZED.

    Raises:
        PromotionError: the frozen labels are not those that were confirmed, or what is written differs
            from what was announced.
        IllegalTransition: the run is not validated.
    """
    if is_past(record["state"], State.FINALIZED):
        return record
    begins = record["state"] != State.FINALIZING.value
    if begins:
        advance(record["state"], Event.BEGIN_FINALIZE, record.get("failed_from"))
    _check_frozen(record)
    if begins:
        _check_ids_are_free(record, dataset)
        record = runs.transition(
            record,
            Event.BEGIN_FINALIZE,
            actor="system",
            figures=_announced(record),
            changes={"creates_field": _is_free(record, dataset), "copy": uuid.uuid4().hex},
        )
    targets = _frozen_samples(record)
    _make_copy(record, dataset, targets)
    field_id = declare_label_field(record, dataset)
    runs.update(runs.fence_of(record), {"field_id": field_id})
    _note_fields_that_exist(record, dataset)
    for start in range(0, len(targets), BATCH):
        batch = targets[start : start + BATCH]
        runs.require(runs.fence_of(record), State.FINALIZING)
        _require_field(record, dataset)
        _promote_batch(record, dataset, batch[0], batch[-1])
        if progress is not None:
            progress(len(batch))
    verification = _verify(record, dataset)
    runs.require(runs.fence_of(record), State.FINALIZING)
    drop_staging(record)
    dataset.reload()
    dataset.sync_last_modified_at()
    register(record, dataset)
    counts = {
        **record["counts"],
        "finalized": verification["written"],
        "discarded": record["counts"]["predicted"] - record["counts"]["approved"],
    }
    record = runs.transition(
        record,
        Event.FINALIZE,
        actor="system",
        figures={"announced": verification["announced"], "written": verification["written"]},
        changes={"verification": verification, "counts": counts, "heartbeat_at": None},
    )
    safety_copies.prune(record)
    return record


def field_identity(dataset: Any, label_field: str) -> dict[str, Any] | None:
    """What valflow wrote about a label field when it first used it: ``field_id`` and whether it created it."""
    field = dataset.get_field(label_field)
    return None if field is None else (field.info or {}).get("valflow")


def finalized_runs_into(dataset: Any, label_field: str) -> list[str]:
    """Keys of the finalized runs into the label field as it exists now; a deleted field forgets its runs."""
    identity = field_identity(dataset, label_field)
    if identity is None:
        return []
    cursor = database.runs().find(
        {
            "dataset_id": str(dataset._doc.id),
            "field_id": identity["field_id"],
            "state": State.FINALIZED.value,
        },
        {"run": 1},
    )
    return [r["run"] for r in cursor]


def _announced(record: runs.Record) -> dict[str, Any]:
    return {k: record["frozen"][k] for k in ("labels", "samples", "digest")}


def _check_frozen(record: runs.Record) -> None:
    digest, labels, _ = digest_of(record, record["frozen"]["token"])
    if digest != record["frozen"]["digest"]:
        raise PromotionError(
            f"the frozen labels of run {record['run']} are not those that {record['decision']['reviewer']} confirmed: "
            f"expected {record['frozen']['labels']} labels with digest {record['frozen']['digest'][:12]}, found "
            f"{labels} with {digest[:12]}. Nothing was written; somebody changed {database.LEDGER} by hand"
        )


def _check_ids_are_free(record: runs.Record, dataset: Any) -> None:
    """Make sure that no frozen label has the id of a label that is in the label field already.

    Such a label would be taken for one that an interrupted finalization has written, and be passed over.

    Raises:
        PromotionError: names some of them.
    """
    if not dataset.has_field(record["label_field"]):
        return
    frozen = {
        "run": record["run"],
        "frozen.token": record["frozen"]["token"],
        "frozen.labels.0": {"$exists": True},
    }
    there = {
        "from": dataset._sample_collection_name,
        "localField": "sample_id",
        "foreignField": "_id",
        "as": "s",
    }
    labels = label_type_of(record).first_labels_in("$s", record["label_field"])
    ids = {"$map": {"input": {"$ifNull": [labels, []]}, "as": "d", "in": "$$d._id"}}
    taken = [
        i
        for found in database.ledger().aggregate(
            [
                {"$match": frozen},
                {"$lookup": there},
                {"$project": {"_id": 0, "ids": {"$setIntersection": ["$frozen.labels._id", ids]}}},
                {"$match": {"ids.0": {"$exists": True}}},
            ]
        )
        for i in found["ids"]
    ]
    if taken:
        raise PromotionError(
            f"{len(taken)} of the labels that run {record['run']} would write have ids that are in the label field "
            f"already: {', '.join(map(str, taken[:3]))}. Nothing was written. Somebody copied them there: remove "
            "these copies, and run the finalization again"
        )


def _is_free(record: runs.Record, dataset: Any) -> bool:
    """Whether the run creates its label field.

    Raises:
        PromotionError: somebody else made a field of that name since the run began.
    """
    dataset.reload()
    name = record["label_field"]
    if not dataset.has_field(name):
        return True
    if field_identity(dataset, name) is None and not record["config"]["append"]:
        raise PromotionError(
            f"somebody made a field {name!r} on {record['dataset']} since run {record['run']} began; "
            "nothing was written. Rename that field, or discard the run"
        )
    return False


def declare_label_field(record: runs.Record, dataset: Any) -> str:
    """Declare the label field of a run and say whose it is; already there is fine. Returns the field's identity."""
    with changing(dataset):
        return _declare(record, dataset)


def _declare(record: runs.Record, dataset: Any) -> str:
    import fiftyone as fo

    label_type, name = label_type_of(record), record["label_field"]
    # The run before may have been rolled back, field and all, since this one looked.
    creates = record["creates_field"] or not dataset.has_field(name)
    declare_field(dataset, name, label_type)
    for attribute in ("run", "source"):
        path = f"{label_type.path(name)}.{attribute}"
        if dataset.get_field(path) is None:
            dataset.add_sample_field(path, fo.StringField)
    field = dataset.get_field(name)
    identity = (field.info or {}).get("valflow")
    if identity is None:
        # Known from before the field was declared: a crash in between must not make it somebody else's.
        identity = {
            "field_id": uuid.uuid4().hex,
            "created": creates,
            "label_type": label_type.name,
        }
        field.info = {**(field.info or {}), "valflow": identity}
        field.save()
    return str(identity["field_id"])


def _require_field(record: runs.Record, dataset: Any) -> None:
    """Refuse to write into a field that is declared no more: it would make the dataset unreadable.

    Raises:
        PromotionError: somebody deleted or renamed it since this finalization began.
    """
    name = record["label_field"]
    if not is_declared(dataset, name):
        raise PromotionError(
            f"the label field {name!r} of {record['dataset']} was deleted or renamed while run {record['run']} was "
            f"being finalized. Nothing is lost: `valflow finalize {record['run']}` makes it anew and goes on"
        )


def _make_copy(record: runs.Record, dataset: Any, samples: list[ObjectId]) -> None:
    """Before the first label is written; nothing can be copied any more where it was begun without."""
    if record.get("copy"):
        safety_copies.make(
            record, dataset, record["copy"], "finalize", record["decision"]["reviewer"], samples
        )


def _frozen_samples(record: runs.Record) -> list[ObjectId]:
    cursor = database.ledger().find(
        {
            "run": record["run"],
            "frozen.token": record["frozen"]["token"],
            "frozen.labels.0": {"$exists": True},
        },
        {"_id": 0, "sample_id": 1},
    )
    return [d["sample_id"] for d in cursor.sort("sample_id", 1)]


def _note_fields_that_exist(record: runs.Record, dataset: Any) -> None:
    """Remember which samples had the label field before: what undoing the run needs to know.

    Nothing is promoted before all are noted, so a repetition still finds what was there.
    """
    open_notes = {"run": record["run"], "labels.0": {"$exists": True}, "had_field": {"$exists": False}}
    had: list[ObjectId] = []
    if not record["creates_field"]:
        query = {f"{record['label_field']}._cls": {"$type": "string"}}
        had = [d["_id"] for d in database.samples_of(dataset).find(query, {"_id": 1})]
    for start in range(0, len(had), _NOTED_AT_ONCE):
        part = {"sample_id": {"$in": had[start : start + _NOTED_AT_ONCE]}}
        database.ledger().update_many(open_notes | part, {"$set": {"had_field": True}})
    database.ledger().update_many(open_notes, {"$set": {"had_field": False}})


def _promote_batch(record: runs.Record, dataset: Any, first: ObjectId, last: ObjectId) -> None:
    name = record["label_field"]
    value = label_type_of(record).value_with(name, "$$new.labels")
    wanted = {
        "run": record["run"],
        "sample_id": {"$gte": first, "$lte": last},
        "frozen.token": record["frozen"]["token"],
        "frozen.labels.0": {"$exists": True},
    }
    database.run_to_end(
        database.runs().aggregate(
            [
                *runs.while_held(runs.fence_of(record), State.FINALIZING, wanted),
                {"$project": {"_id": "$sample_id", "labels": "$frozen.labels"}},
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": [
                            {
                                "$set": {
                                    name: value,
                                    "last_modified_at": "$$NOW",
                                }
                            },
                            {"$unset": record["staging_field"]},
                        ],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _verify(record: runs.Record, dataset: Any) -> dict[str, Any]:
    """Count what stands in the label field under this run's key, and what else changed meanwhile.

    Raises:
        PromotionError: the counts differ from those announced.
    """
    label_type, name = label_type_of(record), record["label_field"]
    path = label_type.path(name)
    per_class = {
        str(g["_id"]): g["n"]
        for g in database.samples_of(dataset).aggregate(
            [
                {"$match": {f"{path}.run": record["run"]}},
                {"$project": {"d": label_type.labels_in(f"${name}")}},
                {"$unwind": "$d"},
                {"$match": {"d.run": record["run"]}},
                {"$group": {"_id": "$d.label", "n": {"$sum": 1}}},
                {"$sort": {"n": -1, "_id": 1}},
            ]
        )
    }
    written, announced = sum(per_class.values()), record["frozen"]["labels"]
    samples = database.samples_of(dataset).count_documents({f"{path}.run": record["run"]})
    deleted: dict[ObjectId, int] = {}
    if written != announced or samples != record["frozen"]["samples"]:
        deleted = _deleted_since(record, dataset)
    if (written + sum(deleted.values()), samples + len(deleted)) != (announced, record["frozen"]["samples"]):
        there = database.samples_of(dataset).find({f"{path}.run": record["run"]}, {"_id": 1})
        missing = set(_frozen_samples(record)) - {d["_id"] for d in there} - deleted.keys()
        raise PromotionError(
            f"{announced} labels on {record['frozen']['samples']} samples were announced, {written} on {samples} "
            f"are in {record['dataset']}.{name}"
            + (f"; samples without them: {', '.join(map(str, sorted(missing)[:5]))}" if missing else "")
            + ". The review field was kept; run the finalization again once the cause is mended"
        )
    changed = changed_samples(record, dataset)
    return {
        "schema": {name: label_type.field_class},
        "samples_with_labels": samples,
        "labels_per_class": per_class,
        "announced": announced,
        "written": written,
        "deleted_samples": [str(i) for i in deleted],
        "changed_elsewhere": [str(i) for i in changed[:100]],
        "changed_elsewhere_count": len(changed),
    }


def _deleted_since(record: runs.Record, dataset: Any) -> dict[ObjectId, int]:
    """Frozen samples that somebody deleted since the decision, with their number of frozen labels."""
    frozen = database.ledger().aggregate(
        [
            {"$match": {"run": record["run"], "frozen.token": record["frozen"]["token"]}},
            {"$project": {"_id": "$sample_id", "n": {"$size": "$frozen.labels"}}},
            {"$match": {"n": {"$gt": 0}}},
        ]
    )
    there = {d["_id"] for d in database.samples_of(dataset).find({}, {"_id": 1})}
    return {d["_id"]: d["n"] for d in frozen if d["_id"] not in there}


def register(record: runs.Record, dataset: Any) -> None:
    """Leave marks where FiftyOne users look: a custom run, and a saved view per problem tag."""
    with changing(dataset):
        _register(record, dataset)


def _register(record: runs.Record, dataset: Any) -> None:
    references.adopt(dataset, "runs", record["run"])
    if record["run"] not in dataset.list_runs():
        config = dataset.init_run(
            method="valflow",
            run=record["run"],
            label_field=record["label_field"],
            digest=record["frozen"]["digest"],
            reviewer=record["decision"]["reviewer"],
        )
        dataset.register_run(record["run"], config)
    saved = dataset.list_saved_views()
    taken = {_address_of(name) for name in saved}
    for tag in dict.fromkeys([*problem_tag_counts(record["run"]), *sample_tags(record["run"])]):
        address = _address_of(tag)
        if tag not in saved and references.adopt(dataset, "saved_views", tag):
            continue
        if tag not in saved and address is not None and address not in taken:
            taken.add(address)
            dataset.save_view(
                tag, dataset.match_tags(tag), description=f"Samples that reviewers tagged {tag}"
            )


def _address_of(name: str) -> str | None:
    """What FiftyOne makes of a saved view's name in its address: one view each, none for another script."""
    from fiftyone.core.utils import to_slug

    try:
        return str(to_slug(name))
    except ValueError:
        return None
