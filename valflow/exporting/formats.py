"""The export formats by name. Most of them are FiftyOne's own; importing this does not import FiftyOne."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from valflow.errors import ExportError
from valflow.label_types import (
    BY_NAME,
    CLASSIFICATION,
    CLASSIFICATIONS,
    DETECTIONS,
    INSTANCES,
    LabelType,
)


@dataclass(frozen=True)
class Format:
    """A way of writing labels that keeps all that is final about them, and can be read back.

    Attributes:
        name: what configurations call it.
        type_name: its class in ``fiftyone.types``; None for plain files, which are written without FiftyOne.
        holds: names of the label types that it keeps whole.
        pixels: how far a box's edge may move because the format rounds to (parts of) pixels.
        relative: the same for formats that round relative coordinates, in [0, 1].
        knows_classes: whether its files hold the class list.
        one_name_per_stem: whether ``a.jpg`` and ``a.png`` would share a label file and so are renamed.
        needs_media: whether it cannot be read without its images.
        has_paths: whether its files name the folder that they are in.
        has_kinds: whether it holds boxes beside labels of other kinds, each with a field of its own.
        cannot_hold: characters that its exporter writes into XML without escaping them.
        reading: further arguments of FiftyOne's importer.
    """

    name: str
    type_name: str | None
    holds: tuple[str, ...] = (DETECTIONS.name,)
    pixels: float = 0.0
    relative: float = 1e-9
    knows_classes: bool = False
    one_name_per_stem: bool = True
    needs_media: bool = True
    has_paths: bool = False
    has_kinds: bool = False
    cannot_hold: str = ""
    reading: dict[str, Any] = field(default_factory=dict)

    def fiftyone_type(self) -> Any:
        """FiftyOne's class."""
        import fiftyone as fo

        assert self.type_name is not None, f"{self.name} is none of FiftyOne's formats"
        return getattr(fo.types, self.type_name)

    def import_arguments(self, label_field: str) -> dict[str, Any]:
        """Arguments of ``fiftyone.Dataset.from_dir`` that bring the boxes back into ``label_field``."""
        if self.name == "fiftyone":  # brings its own field names
            return dict(self.reading)
        return {"label_field": {"detections": label_field} if self.has_kinds else label_field, **self.reading}


_ALL = (
    Format(
        "coco",
        "COCODetectionDataset",
        holds=(DETECTIONS.name, INSTANCES.name),
        knows_classes=True,
        one_name_per_stem=False,
        needs_media=False,
        reading={"label_types": "detections", "include_id": False},
    ),
    Format("yolov5", "YOLOv5Dataset", relative=2e-6, knows_classes=True, has_paths=True),
    Format("yolov4", "YOLOv4Dataset", relative=2e-6, knows_classes=True),
    Format("voc", "VOCDetectionDataset", pixels=1.0, has_paths=True, cannot_hold="<>&"),
    Format("kitti", "KITTIDetectionDataset", pixels=0.51),
    Format(
        "cvat", "CVATImageDataset", pixels=0.51, one_name_per_stem=False, has_kinds=True, cannot_hold='<>&"\n'
    ),
    Format("bdd", "BDDDataset", pixels=0.051, one_name_per_stem=False, has_kinds=True),
    Format(
        "fiftyone",
        "FiftyOneDataset",
        holds=tuple(BY_NAME),
        knows_classes=True,
        one_name_per_stem=False,
        needs_media=False,
    ),
    Format("fiftyone_detections", "FiftyOneImageDetectionDataset", knows_classes=True),
    Format(
        "fiftyone_classifications",
        "FiftyOneImageClassificationDataset",
        holds=(CLASSIFICATION.name, CLASSIFICATIONS.name),
        knows_classes=True,
    ),
    Format("classification_tree", None, holds=(CLASSIFICATION.name,)),
    Format(
        "csv",
        None,
        holds=(DETECTIONS.name, CLASSIFICATION.name, CLASSIFICATIONS.name),
        one_name_per_stem=False,
        needs_media=False,
    ),
)
FORMATS = {f.name: f for f in _ALL}


def refusal(form: Format, label_type: LabelType) -> str | None:
    """Why a format cannot take labels of a type, or None."""
    if label_type.name in form.holds:
        return None
    lost = (
        "the masks would be lost"
        if label_type.needs_masks
        else "it holds boxes, and these labels have none"
        if not label_type.has_boxes and DETECTIONS.name in form.holds
        else "it holds one class for an image"
        if not label_type.has_boxes
        else "it holds classes of whole images, and the boxes would be lost"
    )
    others = [f.name for f in _ALL if label_type.name in f.holds]
    return f"{form.name!r} cannot hold labels of the type {label_type.name!r}: {lost}; choose {', '.join(others)}"


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        ExportError: there is none; the message lists all and suggests the nearest.
    """
    if name in FORMATS:
        return FORMATS[name]
    nearest = difflib.get_close_matches(name.lower(), FORMATS, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ExportError(f"expected an export format among {', '.join(FORMATS)}, found {name!r}{hint}")
