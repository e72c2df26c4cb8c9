"""Names of classes: which are fit to be one, which look alike, which a field holds."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from valflow import database

# A class is a name that people read and choose from a list, and a key of documents and files.
MOST_CHARACTERS = 500
# Control characters, lone surrogates, and line ends.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")


def is_class_name(name: Any) -> bool:
    """Whether people can read it and every file can hold it."""
    return (
        isinstance(name, str)
        and len(name) <= MOST_CHARACTERS
        # Control characters, lone surrogates, and line ends.
        and (name.isprintable() or not any(unicodedata.category(c) in _NO_TEXT for c in name))
        and bool(name.strip())
    )


def names_in(dataset: Any, path: str) -> list[str]:
    """Class names that occur at a path of a dataset's samples, sorted; what is no name is left out.

    By ``$group``: the answer of ``distinct`` must fit into one document.
    """
    field = path.partition(".")[0]
    # One name where a sample holds a single label.
    names = {"$cond": [{"$isArray": f"${path}"}, f"${path}", [f"${path}"]]}
    groups = database.samples_of(dataset).aggregate(
        [
            {"$match": {field: {"$type": "object"}}},
            {"$project": {"_id": 0, "l": {"$setUnion": [names]}}},
            {"$match": {"l": {"$type": "string"}}},
            {"$unwind": "$l"},
            {"$group": {"_id": "$l"}},
        ],
        allowDiskUse=True,
    )
    return sorted(g["_id"] for g in groups if is_class_name(g["_id"]))


def look_alikes(classes: Iterable[str]) -> list[list[str]]:
    """Groups of class names that people would take for the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def shortened(text: str, most: int) -> str:
    """Text of at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
