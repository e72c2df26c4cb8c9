"""Fingerprints of everything that a labeling run must not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from bson import ObjectId

from valflow import database, ledger
from valflow.label_types import PROBLEM_TAGS, WORKFLOW_TAGS

_SIZE = 16
# `_id` comes first in every document of MongoDB: its length, a type byte, "_id", a zero, and twelve bytes.
_ID_BEGINS, _ID_ENDS = 9, 21
_OBJECT_ID_FIRST = b"\x07_id\x00"


def take_fingerprints(record: dict[str, Any], dataset: Any) -> None:
    """Keep, per sample of the run, a fingerprint of its other fields, tags and file path.

    They stand beside the targets, many in one document: one update per sample would cost ten times as much.
    """
    for shard in ledger.shards(record["run"]):
        found = dict(_fingerprints(record, dataset, shard["sample_ids"]))
        # No fingerprint: the sample was deleted since it was chosen.
        packed = b"".join(found.get(i, bytes(_SIZE)) for i in shard["sample_ids"])
        database.targets().update_one({"_id": shard["_id"]}, {"$set": {"fingerprints": packed}})


def changed_samples(record: dict[str, Any], dataset: Any) -> list[ObjectId]:
    """Samples of the run that differ from their fingerprint, or are gone, in anything that is not the run's."""
    changed: list[ObjectId] = []
    for shard in ledger.shards(record["run"]):
        ids, packed = shard["sample_ids"], shard.get("fingerprints", b"")
        now = dict(_fingerprints(record, dataset, ids))
        changed += [
            sample_id
            for place, sample_id in enumerate(ids)
            if now.get(sample_id) != packed[place * _SIZE : (place + 1) * _SIZE]
        ]
    return changed


def _fingerprints(
    record: dict[str, Any], dataset: Any, sample_ids: Sequence[ObjectId]
) -> Iterator[tuple[ObjectId, bytes]]:
    ours = [record["label_field"], record["staging_field"], "last_modified_at"]
    # Problem tags are put on samples by the review itself.
    not_watched = [*WORKFLOW_TAGS, *PROBLEM_TAGS, *record.get("own_tags", [])]
    tags = {
        "$filter": {
            "input": {"$ifNull": ["$tags", []]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", not_watched]}]},
        }
    }
    pipeline: list[Any] = [
        {"$match": {"_id": {"$in": list(sample_ids)}}},
        {"$set": {"tags": tags}},
        {"$unset": ours},
    ]
    for batch in database.samples_of(dataset).aggregate_raw_batches(pipeline):
        for raw in _documents(batch):
            yield _id_of(raw), hashlib.blake2b(raw, digest_size=_SIZE).digest()


def _documents(batch: bytes) -> Iterator[bytes]:
    """The documents of a raw batch; each begins with its length."""
    start = 0
    while start < len(batch):
        stop = start + int.from_bytes(batch[start : start + 4], "little")
        yield batch[start:stop]
        start = stop


def _id_of(raw: bytes) -> ObjectId:
    assert raw[4:_ID_BEGINS] == _OBJECT_ID_FIRST, "a sample without an ObjectId"
    return ObjectId(raw[_ID_BEGINS:_ID_ENDS])
