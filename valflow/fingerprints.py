"""Fingerprints of everything that a labeling run must not change."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bson import ObjectId

from valflow import collector, database, ledger
from valflow.label_types import PROBLEM_TAGS, WORKFLOW_TAGS

_SIZE = 16
# `_id` comes first in every document of MongoDB: its length, a type byte, "_id", a zero, and twelve bytes.
_ID_BEGINS, _ID_ENDS = 9, 21
_OBJECT_ID_FIRST = b"\x07_id\x00"


@collector.paused()
def take_fingerprints(record: dict[str, Any], dataset: Any) -> None:
    """Keep, per sample of the run, a fingerprint of its other fields, tags and file path.

    They stand beside the targets, many in one document: one update per sample would cost ten times as much.
    """
    for shard in ledger.shards(record["run"]):
        found = dict(_fingerprints(record, dataset, shard["sample_ids"]))
        # No fingerprint: the sample was deleted since it was chosen.
        packed = b"".join(found.get(i, bytes(_SIZE)) for i in shard["sample_ids"])
        database.targets().update_one({"_id": shard["_id"]}, {"$set": {"fingerprints": packed}})


@collector.paused()
def changed_samples(record: dict[str, Any], dataset: Any) -> list[ObjectId]:
    """Samples of the run that differ from their fingerprint, or are gone, in anything that is not the run's."""
    changed: dict[ObjectId, bytes] = {}
    for shard in ledger.shards(record["run"]):
        ids, packed = shard["sample_ids"], shard.get("fingerprints", b"")
        now = dict(_fingerprints(record, dataset, ids))
        for place, sample_id in enumerate(ids):
            before = packed[place * _SIZE : (place + 1) * _SIZE]
            if now.get(sample_id) != before:
                changed[sample_id] = before
    for tags, ids in _tagged_by_us(record["run"], changed).items():
        for sample_id, fingerprint in _fingerprints(record, dataset, ids, tags):
            if fingerprint == changed[sample_id]:
                del changed[sample_id]
    return list(changed)


def _tagged_by_us(run: str, sample_ids: Iterable[ObjectId]) -> dict[tuple[str, ...], list[ObjectId]]:
    """Samples on which the review put tags of the team's own, by those tags; what had one before is not there."""
    tagged: dict[tuple[str, ...], list[ObjectId]] = defaultdict(list)
    query = {"run": run, "sample_id": {"$in": list(sample_ids)}, "sample_tags.0": {"$exists": True}}
    for document in database.ledger().find(query, {"sample_id": 1, "sample_tags": 1}):
        tagged[tuple(sorted({t["tag"] for t in document["sample_tags"]}))].append(document["sample_id"])
    return tagged


def _fingerprints(
    record: dict[str, Any], dataset: Any, sample_ids: Sequence[ObjectId], own_tags: Sequence[str] = ()
) -> Iterator[tuple[ObjectId, bytes]]:
    ours = [record["label_field"], record["staging_field"], "last_modified_at"]
    # Problem tags are put on samples by the review itself.
    not_watched = [*WORKFLOW_TAGS, *PROBLEM_TAGS, *own_tags]
    tags = {
        "$filter": {
            "input": {"$ifNull": ["$tags", []]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", {"$literal": not_watched}]}]},
        }
    }
    pipeline: list[dict[str, Any]] = [
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
