"""Exports that need no library to be read: a table with one row per label, and a folder per class."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from valflow import collector
from valflow.errors import ExportError
from valflow.exporting.formats import Format
from valflow.exporting.media import NONE, place_media, unique_names
from valflow.exporting.selecting import Selection
from valflow.label_types import LabelDict, box_of

TABLE_FILE, MEDIA_FOLDER = "labels.csv", "data"
_ABOUT = ("image", "label", "confidence")
_BOX = ("x", "y", "width", "height")
_SHOWN = 3


@collector.paused()
def write(selection: Selection, folder: Path, form: Format, media: str) -> None:
    """Write the labels, and the images where they are wanted.

    Raises:
        ExportError: a class cannot be the name of a folder.
    """
    folder.mkdir(parents=True)
    names = _names(selection, media)
    if form.name == "csv":
        with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(_columns(selection))
            table.writerows(_rows(selection, names))
        if media != NONE:
            place_media(selection.paths, names, folder / MEDIA_FOLDER, media)
        return
    _check_folder_names(selection.classes)
    for name in selection.classes:
        (folder / name).mkdir()
    places: dict[str, list[int]] = {}
    for place, labels in selection.labels():
        for label in labels:
            places.setdefault(label["label"], []).append(place)
    for name, of_class in places.items():
        paths = [selection.paths[p] for p in of_class]
        place_media(paths, [names[p] for p in of_class], folder / name, media)


@collector.paused()
def check(selection: Selection, folder: Path, form: Format, media: str) -> None:
    """Read the files and compare them with the dataset.

    Raises:
        ExportError: samples, labels, classes or boxes differ.
    """
    names = _names(selection, media)
    if form.name == "csv":
        with (folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
            found: list[Any] = list(csv.reader(file))
        wanted: list[Any] = [
            list(_columns(selection)),
            *(list(map(str, row)) for row in _rows(selection, names)),
        ]
        there = {e.name for e in os.scandir(folder / MEDIA_FOLDER)} if media != NONE else set(names)
        if set(names) - there:
            raise _difference("images", set(names), there)
    else:
        found = sorted((c.name, e.name) for c in os.scandir(folder) for e in os.scandir(c.path))
        wanted = sorted((d["label"], names[place]) for place, labels in selection.labels() for d in labels)
    if found != wanted:
        raise _difference("labels", set(map(tuple, wanted)), set(map(tuple, found)))


def _names(selection: Selection, media: str) -> list[str]:
    if media == NONE:
        return [os.path.abspath(path) for path in selection.paths]
    return unique_names(selection.paths)


def _columns(selection: Selection) -> tuple[str, ...]:
    return (*_ABOUT, *_BOX) if selection.label_type.has_boxes else _ABOUT


def _rows(selection: Selection, names: list[str]) -> Iterator[tuple[Any, ...]]:
    """One row per label; an image without labels has none."""
    for place, labels in selection.labels():
        for label in labels:
            yield (names[place], label["label"], _number(label), *_corners(selection, label))


def _number(label: LabelDict) -> Any:
    confidence = label.get("confidence")
    return "" if confidence is None else confidence


def _corners(selection: Selection, label: LabelDict) -> tuple[float, ...]:
    if not selection.label_type.has_boxes:
        return ()
    box = box_of(label)
    assert box is not None, f"label {label['_id']} has no box"
    return box


def _check_folder_names(classes: list[str]) -> None:
    odd = [c for c in classes if c != os.path.basename(c) or c in ("", ".", "..") or "\\" in c or "\0" in c]
    same = {c.casefold() for c in classes}
    if odd or len(same) < len(classes):
        named = ", ".join(map(repr, odd[:_SHOWN])) or "classes that differ only in upper and lower case"
        raise ExportError(
            f"expected classes that can be names of folders, found {named}; choose csv or fiftyone_classifications"
        )


def _difference(what: str, wanted: set[Any], found: set[Any]) -> ExportError:
    lacking, more = sorted(wanted - found)[:_SHOWN], sorted(found - wanted)[:_SHOWN]
    return ExportError(
        f"the export differs from the dataset when it is read back, so it was not put in place: {what}: "
        f"missing {lacking}, not expected {more}"
    )
