"""Telling valflow's own changes of samples from those of people, so that only the latter are looked through.

A sample that only valflow wrote to carries one of valflow's stamps as its time of change, and the record of the run
remembers the stamps. A sample on which somebody worked since the last look never gets one, whatever valflow writes
to it: it stays among those to be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument, UpdateMany

from valflow import database, runs

# Clocks of machines that write into one database differ a little.
_CLOCKS_DIFFER = timedelta(seconds=5)
_TICK = timedelta(milliseconds=1)  # the resolution of the database


def changed_by_others(record: runs.Record) -> dict[str, Any] | None:
    """Query for samples on which somebody may have worked since the last look; None where nobody looked yet."""
    since = record.get("edits_read_at")
    if since is None or runs.aware(since) > database.now() + _CLOCKS_DIFFER:
        return None  # or the clock was set back, and times say nothing about what came after what
    return {"last_modified_at": {"$gte": since - _CLOCKS_DIFFER, "$nin": record.get("own_writes", [])}}


def looked_at(run: str, time: datetime) -> None:
    """Note that all changes before ``time`` are known; stamps that no query needs any more are dropped."""
    database.runs().update_one(
        {"run": run},
        {"$set": {"edits_read_at": time}, "$pull": {"own_writes": {"$lt": time - _CLOCKS_DIFFER}}},
    )


@dataclass(frozen=True)
class Stamp:
    """One time of change for all that is written with it.

    Attributes:
        time: the stamp.
        others: samples on which somebody may have worked; None for all.
    """

    time: datetime
    others: dict[str, Any] | None

    @classmethod
    def take(cls, run: str) -> Stamp:
        """A new stamp, known to the record before anything carries it."""
        time = database.now()
        record: Any = database.runs().find_one_and_update(
            {"run": run}, {"$push": {"own_writes": time}}, return_document=ReturnDocument.AFTER
        )
        return cls(time, changed_by_others(record))

    def worked_on(self, samples: Any, ids: Sequence[ObjectId]) -> list[ObjectId]:
        """Those of the samples on which somebody may have worked since the last look."""
        if self.others is None:
            return list(ids)
        return [d["_id"] for d in samples.find({"_id": {"$in": list(ids)}, **self.others}, {"_id": 1})]

    def updates(
        self,
        query: Mapping[str, Any],
        update: Mapping[str, Mapping[str, Any]],
        filters: list[Mapping[str, Any]] | None,
        worked_on: Sequence[ObjectId],
        *,
        is_mended: bool = True,
    ) -> list[UpdateMany]:
        """The same update for samples that carry the stamp afterwards, and for those of ``worked_on``, which do not.

        A sample that somebody, or another process of ours, changes just now gets neither. Where what it lacks is not
        mended as people's changes are looked at, it gets the update in a third step, and stays among those to be
        looked at.
        """
        made = []
        if self.others is not None:
            alone = {"$and": [dict(query), {"$nor": [self.others]}]}
            made.append(UpdateMany(alone, _timed(update, self.time), array_filters=filters))
        if worked_on:
            chosen = {"$and": [dict(query), {"_id": {"$in": list(worked_on)}}]}
            made.append(UpdateMany(chosen, _timed(update, self.time + _TICK), array_filters=filters))
        if self.others is not None and not is_mended:
            left_out = {"_id": {"$nin": list(worked_on)}, "last_modified_at": {"$ne": self.time}}
            late = {"$and": [dict(query), left_out]}
            made.append(UpdateMany(late, _timed(update, self.time + _TICK), array_filters=filters))
        return made


def _timed(update: Mapping[str, Mapping[str, Any]], time: datetime) -> dict[str, Any]:
    return {**update, "$set": {**update.get("$set", {}), "last_modified_at": time}}
