"""COCO export, read back and compared, beside FiftyOne's exporter, which does not read back.

Run as ``python -m benchmarks.bench_export [--samples 10000]``. Labels alone: copying images costs the same in
both ways.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.measuring import Meter, own_database
from benchmarks.scenes import make_scenes, write_dataset

RUN = "bench_run"
FINAL = {"run": RUN, "source": "auto"}
GOAL = 25.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--without-fiftyone", action="store_true", help="ours alone (for large datasets)")
    options = parser.parse_args()
    with own_database() as meter:
        compare(meter, options.samples, meter.folder, options.without_fiftyone)
        meter.print_table(f"COCO export, {options.samples:,} images")


def compare(meter: Meter, samples: int, folder: Path, alone: bool) -> None:
    """Export the same labels in both ways, compare the files, and add the rows."""
    from valflow.exporting import export_labels

    tiny = write_dataset(
        "tiny", make_scenes(20), field="final", truth=None, attributes=FINAL
    )  # imports are not what is compared
    export_labels(tiny, "final", "coco", folder / "tiny", RUN, media="none")
    by_fiftyone(tiny, folder / "tiny.json")
    scenes = make_scenes(samples)
    labels = len(scenes.sample)
    dataset = write_dataset("bench_export", scenes, field="final", truth=None, attributes=FINAL)
    with meter.measure() as ours:
        entry = export_labels(dataset, "final", "coco", folder, RUN, scope="field", media="none")
    if alone:
        meter.row("valflow: COCO export and read back", labels, ours.cpu)
        return
    with meter.measure() as theirs:
        by_fiftyone(dataset, folder / "theirs.json")
    check_equal(Path(entry["dir"]) / "labels.json", folder / "theirs.json")
    meter.row("FiftyOne: export", labels, theirs.cpu)
    meter.against("valflow: COCO export and read back", labels, ours.cpu, theirs.cpu, GOAL)


def by_fiftyone(dataset: Any, path: Path) -> None:
    """FiftyOne's best: labels alone, with a class list, images by absolute path."""
    import fiftyone as fo

    dataset.export(
        labels_path=str(path),
        dataset_type=fo.types.COCODetectionDataset,
        label_field="final",
        classes=sorted(dataset.distinct("final.detections.label")),
        abs_paths=True,
    )


def check_equal(ours: Path, theirs: Path) -> None:
    """The same content, but for the attributes of the workflow and the time."""
    contents = [json.loads(path.read_text()) for path in (ours, theirs)]
    for content in contents:
        content["info"]["date_created"] = None
        for annotation in content["annotations"]:
            for name in ("run", "source"):
                annotation.pop(name, None)
    assert contents[0] == contents[1], "the exports differ"


if __name__ == "__main__":
    main()
