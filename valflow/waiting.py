"""Tells who runs a stack which labeling runs wait for a person, and where to look at them; or what to begin with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valflow.database import RUNS
from valflow.review_app import address_of
from valflow.states import State

if TYPE_CHECKING:
    from pymongo import MongoClient

NO_DATASET = (
    "data     no dataset yet: load images with FiftyOne, or in a clone of valflow, in a second terminal:\n"
    "         {python} -m examples.digits.scenes mine --scenes 60 --folder demo_output/mine"
)


class Waiting:
    """Says once for every round of a run that it waits, and once where there is no dataset at all.

    Asks MongoDB itself, because importing FiftyOne takes seconds.

    Args:
        find_uri: finds the database. FiftyOne's embedded one starts late, and comes back on another port, so it is
            looked for again whenever it does not answer; None while there is none.
        app_url: of the App that the addresses lead to.
        say: called with one line per run.
    """

    def __init__(self, find_uri: Callable[[], str | None], app_url: str, say: Callable[[str], None]) -> None:
        self._find_uri = find_uri
        self._app_url = app_url
        self._say = say
        self._client: MongoClient[dict[str, Any]] | None = None
        self._told: set[tuple[str, int]] = set()
        self._is_new = True

    def look(self) -> None:
        """Say what waits and was not said yet; a database that is away is looked for again next time."""
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        if self._client is None:
            uri = self._find_uri()
            if uri is None:
                return
            self._client = MongoClient(uri, serverSelectionTimeoutMS=1000)
        try:
            self._say_what_waits(self._client)
        except PyMongoError:
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _say_what_waits(self, client: MongoClient[dict[str, Any]]) -> None:
        database = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")]
        if self._is_new and database["datasets"].find_one({}, {"_id": 1}) is None:
            self._say(NO_DATASET.format(python=_short(sys.executable)))
        self._is_new = False
        query = {"state": State.IN_REVIEW.value, "workspace": {"$ne": None}}
        for record in database[RUNS].find(query, {"history": 0, "class_table": 0}):
            key = record["run"], record["round"]
            if key not in self._told:
                self._told.add(key)
                self._say(f"review   {record['name']}: {address_of(record, self._app_url)}")


def _short(path: str) -> str:
    """A path as it is typed in the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
