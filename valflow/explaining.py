"""Why a label is where it is: everything that the ledger, the actions and the run record know about it."""

from __future__ import annotations

from typing import Any

from valflow import actions, database, ledger, runs
from valflow.certificates import CERTIFIED
from valflow.errors import DatabaseError, SelectionError
from valflow.label_types import label_type_of
from valflow.selections import object_ids


def explain(label_id: str) -> dict[str, Any]:
    """All facts about one label.

    Args:
        label_id: 24 hexadecimal digits.

    Returns:
        JSON: ``label_id, run, dataset, sample_id, predicted, model, threshold, invalid, state, actions, audit,
        certificate, decision, final`` (``final`` is None where the label is not in the label field).

    Raises:
        SelectionError: no run knows the label.
    """
    (identifier,) = object_ids([label_id], "label")
    document = ledger.find_label(identifier)
    if document is None:
        raise SelectionError(
            f"no labeling run knows a label {label_id}; it was drawn or imported by other means"
        )
    record = runs.load(document["run"])
    index = [e["_id"] for e in document["labels"]].index(identifier)
    entry, predicted = document["labels"][index], document["predicted"][index]
    by_number = {a["seq"]: a for a in actions.history_of(record["run"])}
    numbers = {p["action"] for p in entry["prev"]} | {entry["action"]}
    numbers |= {r["of"] for r in entry.get("returned", [])} | {t["action"] for t in entry["tags"]}
    thresholds = record.get("thresholds") or {"default": None, "per_class": {}}
    facts = {
        "label_id": label_id,
        "run": record["run"],
        "dataset": record["dataset"],
        "sample_id": document["sample_id"],
        "predicted": predicted,
        "drawn_by": entry.get("drawn_by"),
        "model": record["model"],
        "threshold": thresholds["per_class"].get(predicted["label"], thresholds["default"]),
        "invalid": entry["invalid"],
        "state": entry["state"],
        "actions": [by_number[n] for n in sorted(numbers) if n in by_number],
        "audit": _verdict(record["run"], identifier),
        "certificate": _certificate(record, entry, predicted),
        "decision": record["decision"],
        "final": _final(record, document["sample_id"], identifier),
    }
    plain: dict[str, Any] = runs.as_json(facts)
    plain["predicted"] = {
        k: v for k, v in plain["predicted"].items() if k in ("label", "confidence", "bounding_box")
    }
    return plain


def in_words(facts: dict[str, Any]) -> str:
    """The facts as a few lines."""
    predicted, model = facts["predicted"], facts["model"] or {}
    confidence = predicted.get("confidence")
    told = "without confidence" if confidence is None else f"with confidence {confidence:.3f}"
    if facts["drawn_by"]:
        origin = f"drawn by {facts['drawn_by']} as {predicted['label']!r}"
    else:
        version = model.get("version") or model.get("kind")
        origin = f"predicted as {predicted['label']!r} {told} by {model.get('name')} ({version})"
    lines = [
        f"label {facts['label_id']} on sample {facts['sample_id']} of {facts['dataset']}",
        f"  {origin}, in run {facts['run']}",
    ]
    if facts["invalid"]:
        lines.append(f"  fails a check: {'; '.join(facts['invalid'])}")
    for action in facts["actions"]:
        taken_back = "" if action["undone_by"] is None else f" (taken back by action {action['undone_by']})"
        rule = (
            f", threshold {facts['threshold']}"
            if action["actor"] == actions.POLICY and facts["threshold"] is not None
            else ""
        )
        lines.append(f"  {action['event']} by {action['actor']} at {action['time']}{rule}{taken_back}")
    if facts["certificate"]:
        proven = facts["certificate"]
        lines.append(f"  approved by certificate {proven['digest'][:12]}: {proven['sentence']}")
    if facts["audit"]:
        drawn = facts["audit"]
        lines.append(
            f"  drawn at random with probability {drawn['probability']:.3g} (number {drawn['number']}) and judged "
            f"{drawn['verdict']} by {drawn['reviewer']}"
        )
    if facts["decision"]:
        decision = facts["decision"]
        lines.append(f"  {decision['decision']} decided by {decision['reviewer']} at {decision['time']}")
    final = facts["final"]
    where = (
        f"in the label field as {final['label']!r}, source {final.get('source')}"
        if final
        else "not in the label field"
    )
    lines.append(f"  now {facts['state']}, {where}")
    return "\n".join(lines)


def _certificate(
    record: runs.Record, entry: dict[str, Any], predicted: dict[str, Any]
) -> dict[str, Any] | None:
    """The certificate that approved a label: its digest, the label's group and what is claimed about that."""
    certificate = record.get("certificate") or {}
    if certificate.get("state") != CERTIFIED or entry["action"] != certificate["action"]:
        return None
    groups = [
        g for g in certificate["groups"] if str(predicted["label"]) in (c["label"] for c in g["by_class"])
    ]
    return {"digest": certificate["digest"], "group": groups[0]["name"], "sentence": groups[0]["sentence"]}


def _verdict(run: str, label: Any) -> dict[str, Any] | None:
    audit = database.audits().find_one(
        {"run": run, "items": {"$elemMatch": {"label_id": label, "verdict": {"$ne": None}}}},
        sort=[("drawn_at", -1)],
    )
    return None if audit is None else next(i for i in audit["items"] if i["label_id"] == label)


def _final(record: runs.Record, sample_id: Any, label: Any) -> dict[str, Any] | None:
    try:
        dataset = database.dataset_of(record)
    except DatabaseError:  # the dataset is gone, and every label with it
        return None
    label_type, field = label_type_of(record), record["label_field"]
    sample = database.samples_of(dataset).find_one({"_id": sample_id}, {field: 1})
    labels = label_type.labels_of(sample or {}, field)
    return next((d for d in labels if d["_id"] == label), None)
