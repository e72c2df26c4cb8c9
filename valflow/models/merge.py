"""Predictions merged from other runs of the same dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from valflow import collector, runs
from valflow.config import MergeModelConfig
from valflow.ensemble import merging, reading
from valflow.errors import ConfigError, RunNotFound
from valflow.label_types import label_type_of


@dataclass(eq=False)
class MergeSource:
    """The labels of several runs, as one.

    Attributes:
        config: which runs, and how.
        records: the runs.
        best: of strategy *best*: key of a run by class.
        read_at_once: see ``Source``; labels are small.
    """

    config: MergeModelConfig
    records: Sequence[runs.Record]
    best: Mapping[str, str]
    read_at_once: int = 256

    def describe(self) -> dict[str, Any]:
        """The runs, their models, and how they are merged."""
        models = [str((r.get("model") or {}).get("name") or r["run"]) for r in self.records]
        return {
            "kind": "merge",
            "name": merging.in_words(self.config.strategy, models, self.config.least_votes),
            **self.config.model_dump(mode="json", exclude={"kind"}),
            "models": [r.get("model") for r in self.records],
            "best": [{"label": label, "run": run} for label, run in self.best.items()],
        }

    def classes(self, dataset: Any) -> list[str]:
        """Classes that the runs have predicted.

        Raises:
            ConfigError: the runs are of another dataset.
        """
        [of] = {(r["dataset_id"], r["dataset"]) for r in self.records}
        if of[0] != str(dataset._doc.id):
            raise ConfigError([f"model.runs: expected runs of {dataset.name!r}, they are of {of[1]!r}"])
        tables = [row["label"] for r in self.records for row in r.get("class_table") or []]
        return sorted(set(tables))

    def label_class(self, dataset: Any) -> str | None:
        """The class of the runs' labels; they are of one type."""
        return label_type_of(self.records[0]).field_class

    def samples(self) -> set[ObjectId]:
        """What any of the runs has seen."""
        return set[ObjectId]().union(*(reading.seen_by(r) for r in self.records))

    @collector.paused()
    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """The merged labels of each sample."""
        return list(
            merging.merge_labels(
                self.records,
                sample_ids,
                strategy=self.config.strategy,
                which=self.config.labels,
                iou=self.config.iou,
                least_votes=self.config.least_votes,
                best=self.best,
            )
        )

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """The labels as they are."""
        return list(inputs)


def open_source(config: MergeModelConfig) -> MergeSource:
    """The source that a configuration names.

    Raises:
        ConfigError: the runs cannot be merged, or nothing tells which one is best.
    """
    try:
        records = reading.load_together(config.runs, config.labels)
    except RunNotFound as unknown:
        raise ConfigError([f"model.runs: {unknown}"]) from None
    best = {}
    if config.strategy == "best":
        best = merging.best_runs(records, config.labels, config.iou, config.ground_truth)
    return MergeSource(config, records, best)
