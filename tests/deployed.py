"""Flow runs of the deployment on a server without a worker: each process is started here, as a worker would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def work(flow_run: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What a worker starts for a flow run, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", "flow-run", "execute", flow_run],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def final_labels(dataset: str) -> list[tuple[str, tuple[float, ...], float]]:
    return _labels_in(dataset, "pets", 0.0)


def expected_labels(dataset: str) -> list[tuple[str, tuple[float, ...], float]]:
    """What stands above the usual threshold."""
    return _labels_in(dataset, "predictions", 0.7)


def _labels_in(dataset: str, field: str, least: float) -> list[tuple[str, tuple[float, ...], float]]:
    import fiftyone as fo

    loaded = fo.load_dataset(dataset)
    loaded.reload()
    labels = [d for group in loaded.values(f"{field}.detections") for d in group or []]
    return sorted((d.label, tuple(d.bounding_box), d.confidence) for d in labels if d.confidence >= least)
