"""Tells who runs a stack which labeling runs wait for a person, and where to look at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from valflow.database import RUNS
from valflow.review_app import address_of
from valflow.states import State


class Waiting:
    """Says once for every run that it waits; asks MongoDB itself, because importing FiftyOne takes seconds.

    Args:
        uri: of the database.
        app_url: of the App that the addresses lead to.
        say: called with one line per run.
    """

    def __init__(self, uri: str, app_url: str, say: Callable[[str], None]) -> None:
        from pymongo import MongoClient

        self._client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=1000)
        self._runs = self._client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")][RUNS]
        self._app_url = app_url
        self._say = say
        self._told: set[tuple[str, int]] = set()

    def look(self) -> None:
        """Say what waits and was not said yet; a database that is away is asked again next time."""
        from pymongo.errors import PyMongoError

        with suppress(PyMongoError):
            query = {"state": State.IN_REVIEW.value, "workspace": {"$ne": None}}
            for record in self._runs.find(query, {"history": 0, "class_table": 0}):
                key = record["run"], record["round"]
                if key not in self._told:
                    self._told.add(key)
                    self._say(f"review   {record['name']}: {address_of(record, self._app_url)}")

    def close(self) -> None:
        """End the connection."""
        self._client.close()
