"""Fingerprints of everything that a labeling run must not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from valflow import database
from valflow.label_types import PROBLEM_TAGS, WORKFLOW_TAGS

_WRITE_BATCH = 1000


def take_fingerprints(record: dict[str, Any], dataset: Any) -> None:
    """Keep, per sample of the run, a fingerprint of its other fields, tags and file path in the ledger."""
    updates = []
    for sample_id, fingerprint in _fingerprints(record, dataset):
        updates.append(
            UpdateOne({"run": record["run"], "sample_id": sample_id}, {"$set": {"fingerprint": fingerprint}})
        )
        if len(updates) == _WRITE_BATCH:
            database.ledger().bulk_write(updates, ordered=False)
            updates = []
    if updates:
        database.ledger().bulk_write(updates, ordered=False)


def changed_samples(record: dict[str, Any], dataset: Any) -> list[ObjectId]:
    """Samples of the run that differ from their fingerprint, or are gone, in anything that is not the run's."""
    cursor = database.ledger().find({"run": record["run"]}, {"_id": 0, "sample_id": 1, "fingerprint": 1})
    before = {d["sample_id"]: d.get("fingerprint") for d in cursor}
    changed = [i for i, fingerprint in _fingerprints(record, dataset) if before.pop(i) != fingerprint]
    return changed + list(before)


def _fingerprints(record: dict[str, Any], dataset: Any) -> Iterator[tuple[ObjectId, bytes]]:
    ours = [record["label_field"], record["staging_field"], "last_modified_at"]
    # Problem tags are put on samples by the review itself.
    tags = {
        "$filter": {
            "input": {"$ifNull": ["$tags", []]},
            "as": "t",
            "cond": {
                "$not": [{"$in": ["$$t", [*WORKFLOW_TAGS, *PROBLEM_TAGS, *record.get("own_tags", [])]]}]
            },
        }
    }
    raw: Any = database.samples_of(dataset).with_options(CodecOptions(document_class=RawBSONDocument))
    wanted = database.ledger().distinct("shard", {"run": record["run"]})
    for shard in wanted:
        cursor = database.ledger().find({"run": record["run"], "shard": shard}, {"_id": 0, "sample_id": 1})
        ids = [d["sample_id"] for d in cursor]
        pipeline = [{"$match": {"_id": {"$in": ids}}}, {"$set": {"tags": tags}}, {"$unset": ours}]
        for document in raw.aggregate(pipeline):
            yield document["_id"], hashlib.blake2b(document.raw, digest_size=16).digest()
