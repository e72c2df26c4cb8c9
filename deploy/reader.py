"""What a machine sees that has nothing but the database: ``python -m deploy.reader RUN…`` prints it as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from examples.digits.reviewer import valflow


def read(run: str) -> dict[str, Any]:
    """The labels of a run as they stand in its dataset, beside what its record says."""
    import fiftyone as fo

    record = valflow("show", run)
    dataset = fo.load_dataset(record["dataset"])
    path = f"{record['label_field']}.detections"
    ids, owners = dataset.values([f"{path}.id", f"{path}.run"], unwind=True)
    mine = [identifier for identifier, owner in zip(ids, owners, strict=True) if owner == run]
    return {
        "run": run,
        "state": record["state"],
        "labels": len(mine),
        "different_labels": len(set(mine)),
        "labels_of_others": len(ids) - len(mine),
        "finalized": record["counts"]["finalized"],
        "fields_in_review": [name for name in dataset.get_field_schema() if name.endswith("_in_review")],
    }


if __name__ == "__main__":
    print(json.dumps([read(run) for run in sys.argv[1:]]))
