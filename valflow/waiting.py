"""Tells who runs a stack which labeling runs wait for a person, and where to look at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from valflow.database import RUNS
from valflow.review_app import address_of
from valflow.states import State

if TYPE_CHECKING:
    from pymongo import MongoClient


class Waiting:
    """Says once for every round of a run that it waits.

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
        runs = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")][RUNS]
        query = {"state": State.IN_REVIEW.value, "workspace": {"$ne": None}}
        for record in runs.find(query, {"history": 0, "class_table": 0}):
            key = record["run"], record["round"]
            if key not in self._told:
                self._told.add(key)
                self._say(f"review   {record['name']}: {address_of(record, self._app_url)}")
