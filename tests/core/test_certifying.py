"""Certificates of runs: drawn blind at triage, computed from the last verdict, void when what they rest on changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, counts, entries, make_config, make_dataset, make_run
from tests.certified import (
    SETTINGS,
    grow,
    honest_verdicts,
    judge_honestly,
    make_certified_run,
    make_large_dataset,
)
from valflow import (
    actions,
    audits,
    calibration,
    certifying,
    checklist,
    database,
    decisions,
    ledger,
    lots,
    opening,
    runs,
    undoing,
)
from valflow.config import config_from_mapping
from valflow.decisions import Decision
from valflow.errors import AuditError, CertificateError, ConfigError, DecisionRefused
from valflow.freezing import digest_of
from valflow.selections import Selection


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_large_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_certified_run(dataset)


def certificate(run: str) -> dict[str, Any]:
    found: dict[str, Any] = runs.load(run)["certificate"]
    return found


def certificate_audit(run: str) -> audits.Audit:
    audit = audits.certificate_audit(run)
    assert audit is not None
    return audit


class TestProposal:
    def test_nothing_is_approved_before_the_audit(self, run: str) -> None:
        stands = certificate(run)
        assert counts(run) == {"approved": 0, "rejected": 0, "undecided": 1000}
        assert stands["state"] == "audit"
        assert stands["audit"] == len(certificate_audit(run)["items"]) > 20
        assert {g["name"] for g in stands["groups"]} == {"cat", "dog"}

    def test_the_draw_is_random_within_the_widest_region_and_shuffled(self, run: str) -> None:
        items = certificate_audit(run)["items"]
        assert len({i["label_id"] for i in items}) == len(items)
        assert [i["number"] for i in items] == list(range(1, len(items) + 1))
        assert len({i["group"] for i in items[:20]}) == 2
        # Neither in order of confidence nor in that of the dataset.
        confidences = [i["confidence"] for i in items]
        assert confidences != sorted(confidences)
        assert confidences != sorted(confidences, reverse=True)
        for group in certificate(run)["groups"]:
            drawn = [i for i in items if i["group"] == group["name"]]
            assert {i["probability"] for i in drawn} == {group["audit"] / group["drawn_from"]}

    def test_is_repeatable_by_its_seed(self, dataset: Any, run: str) -> None:
        first = {str(i["label_id"])[-1] + i["label"] for i in certificate_audit(run)["items"]}
        sample_and_confidence = [(i["sample_id"], i["confidence"]) for i in certificate_audit(run)["items"]]
        decisions.submit(run, Decision("discard", "ann"))
        database.runs().update_one({"run": run}, {"$unset": {"certificate.batch": ""}})
        again = make_certified_run(dataset)
        assert first
        assert [
            (i["sample_id"], i["confidence"]) for i in certificate_audit(again)["items"]
        ] == sample_and_confidence

    def test_repeated_after_a_crash_draws_once(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED", approval=SETTINGS)
        record = runs.load(run)
        certifying.open_audit({**record, "fingerprint": "f"}, dataset, "f")
        bring_to(run, dataset)
        assert database.audits().count_documents({"run": run}) == 1

    def test_labels_without_a_usable_confidence_go_to_review(self, tmp_path: Path) -> None:
        dataset = make_large_dataset(tmp_path)
        first = dataset.first()
        first.pred.detections[0].confidence = None
        first.pred.detections[1].confidence = 1.5
        first.save()
        run = make_certified_run(dataset)
        judge_honestly(run, dataset)
        states = [e for e in entries(run).values() if e["sample_id"] == first.id][:2]
        assert [e["state"] for e in states] == ["undecided", "undecided"]

    @pytest.mark.parametrize(
        ("predictions", "reason"),
        [
            pytest.param([[("cat", 0.9)] * 5] * 10, "only 50 labels", id="fewer labels than a group needs"),
            pytest.param([[]] * 3, "there is none", id="no labels"),
            pytest.param([[("cat", None)] * 5] * 40, "no label has a confidence", id="no confidences"),
        ],
    )
    def test_abstains_where_nothing_can_be_proven(
        self, tmp_path: Path, predictions: Any, reason: str
    ) -> None:
        dataset = make_dataset(tmp_path, predictions=predictions, with_truth=False)
        run = make_certified_run(dataset)
        stands = certificate(run)
        assert stands["state"] == "abstained"
        assert reason in stands["reason"]
        assert audits.latest(run) is None
        assert counts(run)["approved"] == 0

    def test_equal_confidences_stand_or_fall_together(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("cat", 0.95)] * 5] * 60, with_truth=False)
        run = make_certified_run(dataset)
        audit = certificate_audit(run)
        audits.judge(run, {i["number"]: "correct" for i in audit["items"]}, "ann")
        assert counts(run) == {"approved": 300, "rejected": 0, "undecided": 0}

    def test_the_same_batch_is_not_drawn_for_twice(self, dataset: Any, run: str) -> None:
        decisions.submit(run, Decision("discard", "ann", note="did not like the verdicts"))
        again = make_certified_run(dataset, seed=8)
        assert certificate(again)["state"] == "abstained"
        assert "drawn for before" in certificate(again)["reason"]
        assert run in certificate(again)["reason"]


class TestCertificate:
    def test_the_last_verdict_approves_what_is_proven(self, dataset: Any, run: str) -> None:
        verdicts = honest_verdicts(run, dataset)
        numbers = list(verdicts)
        audits.judge(run, {n: verdicts[n] for n in numbers[:-1]}, "ann")
        assert certificate(run)["state"] == "audit"
        audits.judge(run, {numbers[-1]: verdicts[numbers[-1]]}, "bob")
        stands = certificate(run)
        assert stands["state"] == "certified"
        assert stands["approved"] > 300
        assert stands["verdicts_from"] == {"ann": len(numbers) - 1, "bob": 1}
        after = counts(run)
        correct = sum(v == "correct" for v in verdicts.values())
        assert after["approved"] == stands["approved"] + correct
        assert after["rejected"] == len(verdicts) - correct
        assert stands["queue"] == after["undecided"]
        assert stands["looks"] == len(verdicts) + after["undecided"]

    def test_ledger_and_certificate_tell_the_same(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        action = certificate(run)["action"]
        for group in certificate(run)["groups"]:
            approved = [
                i for i, e in entries(run).items() if e["action"] == action and e["label"] == group["name"]
            ]
            assert len(approved) == group["approved"] == group["certified"] - group["audited"] > 0
            assert group["most_wrong"] <= 0.1 * len(approved)
            assert f"of {len(approved)} labels that nobody looked at" in group["sentence"]

    def test_a_bad_model_certifies_nothing(self, dataset: Any, run: str) -> None:
        items = certificate_audit(run)["items"]
        audits.judge(
            run, {i["number"]: "wrong_class" if i["number"] % 2 else "correct" for i in items}, "ann"
        )
        assert certificate(run)["state"] == "certified"
        assert certificate(run)["approved"] == 0
        assert all("nothing is proven" in g["sentence"] for g in certificate(run)["groups"])

    def test_people_overrule_the_policy(self, dataset: Any, run: str) -> None:
        """What a person rejected before the certificate stays rejected."""
        drawn = {str(i["label_id"]) for i in certificate_audit(run)["items"]}
        best = [i for i, e in entries(run).items() if e["confidence"] > 0.99 and i not in drawn][:3]
        actions.reject(run, Selection(label_ids=tuple(best)), "bob")
        judge_honestly(run, dataset)
        assert [entries(run)[i]["state"] for i in best] == ["rejected"] * 3

    def test_a_corrected_label_is_wrong_but_stays(self, dataset: Any, run: str) -> None:
        item = certificate_audit(run)["items"][0]
        path = "auto_in_review.detections"
        database.samples_of(dataset).update_one(
            {f"{path}._id": item["label_id"]}, {"$set": {f"{path}.$.label": "horse"}}
        )
        audits.judge(run, {1: "wrong_class"}, "ann")
        assert entries(run)[str(item["label_id"])]["state"] == "approved"
        audit = certificate_audit(run)
        assert audits.summary(audit)["wrong"] == 1

    def test_unsure_counts_as_wrong_and_waits_for_somebody_else(self, run: str) -> None:
        item = certificate_audit(run)["items"][0]
        audits.judge(run, {1: "unsure"}, "ann")
        assert entries(run)[str(item["label_id"])]["state"] == "undecided"
        assert audits.summary(certificate_audit(run))["wrong"] == 1

    def test_survives_a_crash_between_the_last_verdict_and_the_certificate(
        self, dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(certifying, "_approve", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            judge_honestly(run, dataset)
        monkeypatch.undo()
        assert certificate(run)["state"] == "audit"
        preview = decisions.preview(run, "ann")
        assert certificate(run)["state"] == "certified"
        assert preview.labels == counts(run)["approved"] > 300


class TestChanges:
    def test_a_verdict_taken_back_takes_the_certificate_with_it(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        approved = counts(run)["approved"]
        undoing.undo(run, "ann")
        assert counts(run) == {"approved": 0, "rejected": 0, "undecided": 1000}
        assert certificate(run)["state"] == "audit"
        judge_honestly(run, dataset)
        assert counts(run)["approved"] == approved
        assert certificate(run)["withdrawn"] == 1

    @pytest.mark.parametrize(
        ("collection", "change"),
        [
            pytest.param("audits", {"$set": {"items.0.verdict": "duplicate"}}, id="a verdict"),
            pytest.param("audits", {"$set": {"seed": 8}}, id="the seed"),
            pytest.param("audits", {"$pop": {"items": 1}}, id="a drawn label left out"),
            pytest.param("batches", {"$set": {"classes": ["cat", "horse"]}}, id="a class renamed"),
            pytest.param("runs", {"$set": {"certificate.promise.max_error": 0.2}}, id="the promise"),
            pytest.param("runs", {"$set": {"certificate.digest": "0" * 64}}, id="the digest"),
        ],
    )
    def test_tampering_is_refused(self, dataset: Any, run: str, collection: str, change: Any) -> None:
        judge_honestly(run, dataset)
        getattr(database, collection)().update_one({"run": run}, change)
        with pytest.raises(CertificateError):
            decisions.submit(run, Decision("finalize", "ann"))
        assert runs.load(run)["state"] == "IN_REVIEW"

    def test_drawn_by_hand_instead_of_at_random_is_refused(self, dataset: Any, run: str) -> None:
        best = max(entries(run).items(), key=lambda e: e[1]["confidence"])[0]
        database.audits().update_one({"run": run}, {"$set": {"items.0.label_id": database.ObjectId(best)}})
        items = certificate_audit(run)["items"]
        with pytest.raises(CertificateError, match="only labels drawn at random can certify"):
            audits.judge(run, {i["number"]: "correct" for i in items}, "ann")
        assert counts(run)["approved"] <= len(items)

    def test_no_other_draw_before_the_verdicts_are_there(self, run: str) -> None:
        with pytest.raises(AuditError, match="waits for"):
            audits.draw(run, "ann")


class TestDecision:
    def test_the_confirmed_digest_covers_the_certificate(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        preview = decisions.preview(run, "ann")
        assert not preview.missing
        record = runs.load(run)
        other = {**record, "certificate": {**record["certificate"], "digest": "0" * 64}}
        assert digest_of(record, preview.token)[0] == preview.digest != digest_of(other, preview.token)[0]
        decided = decisions.submit(run, Decision("finalize", "ann", digest=preview.digest))
        assert decided["counts"]["approved"] == counts(run)["approved"]
        final = bring_to(run, dataset, "FINALIZED")
        sources = {e["source"] for d in database.ledger().find({"run": run}) for e in d["frozen"]["labels"]}
        assert sources == {"auto", "human"}
        assert final["counts"]["finalized"] == decided["counts"]["approved"]

    def test_missing_verdicts_are_missing_evidence(self, dataset: Any, run: str) -> None:
        verdicts = honest_verdicts(run, dataset)
        audits.judge(run, dict(list(verdicts.items())[:10]), "ann")
        with pytest.raises(DecisionRefused, match="verdicts"):
            decisions.submit(run, Decision("finalize", "ann"))

    def test_labels_approved_in_bulk_need_a_spot_check(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        actions.approve(run, Selection(min_confidence=0.3), "ann")
        record = runs.load(run)
        item = checklist.evidence(record, ledger.class_table(run))[2]
        assert not item["ok"]
        assert "not covered by the draw" in item["evidence"]
        spot_check = audits.draw(run, "ann", seed=1)
        audits.judge(run, {i["number"]: "correct" for i in spot_check["items"]}, "ann")
        assert checklist.evidence(runs.load(run), ledger.class_table(run))[2]["ok"]

    def test_labels_approved_one_by_one_do_not(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        one = next(i for i, e in entries(run).items() if e["state"] == "undecided")
        actions.approve(run, Selection(label_ids=(one,)), "ann")
        assert checklist.evidence(runs.load(run), ledger.class_table(run))[2]["ok"]


class TestHistory:
    def test_verdicts_of_earlier_runs_shape_the_next_proposal(self, tmp_path: Path) -> None:
        # One alarm in twenty is false; not with these labels.
        dataset = make_large_dataset(tmp_path, seed=1)
        run = make_certified_run(dataset)
        assert certificate(run)["history"] == 0
        judge_honestly(run, dataset)
        bring_to(run, dataset, "FINALIZED")
        grow(dataset, tmp_path, 200, seed=101)
        following = make_certified_run(dataset, seed=None)
        stands = certificate(following)
        assert stands["fingerprint"] == certificate(run)["fingerprint"]
        assert stands["history"] == certificate(run)["audited"]
        assert stands["history_runs"] == [run]
        assert stands["features"] == ["log_area", "log_aspect", "overlap"]
        judge_honestly(following, dataset)
        assert not certificate(following)["drift_suspected"]

    def test_scores_that_moved_start_cold(self, tmp_path: Path, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        bring_to(run, dataset, "FINALIZED")
        grow(dataset, tmp_path, 200, seed=1)
        for sample in dataset.skip(200):
            for label in sample.pred.detections:
                label.confidence = label.confidence**4
            sample.save()
        following = make_certified_run(dataset)
        stands = certificate(following)
        assert stands["history"] == 0
        assert stands["history_dropped"] == certificate(run)["audited"]
        assert stands["drift_suspected"]

    def test_more_errors_than_predicted_mark_the_run_and_drop_what_came_before(
        self, tmp_path: Path, dataset: Any, run: str
    ) -> None:
        judge_honestly(run, dataset)
        bring_to(run, dataset, "FINALIZED")
        grow(dataset, tmp_path, 200, seed=1, share_right=0.7)
        following = make_certified_run(dataset)
        judge_honestly(following, dataset)
        stands = certificate(following)
        assert stands["drift_suspected"]
        assert stands["drift"][-1]["name"] == "audit"
        past = calibration.history(stands["fingerprint"])
        assert past.runs == (following,)

    def test_forgotten_verdicts_do_not_count(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        fingerprint = certificate(run)["fingerprint"]
        assert len(calibration.history(fingerprint)) == certificate(run)["audited"]
        assert calibration.forget(fingerprint, "ann") == certificate(run)["audited"]
        assert len(calibration.history(fingerprint)) == 0
        (row,) = [r for r in calibration.overview() if r["fingerprint"] == fingerprint]
        assert (row["verdicts"], row["forgotten"]) == (0, certificate(run)["audited"])
        assert all(v["forgotten"] for v in calibration.verdicts(fingerprint))

    def test_another_class_list_starts_cold(self, dataset: Any, run: str) -> None:
        record = runs.load(run)
        renamed = {**record, "config": {**record["config"], "classes": ["cat", "hound"]}}
        assert calibration.fingerprint_of(renamed, dataset) != calibration.fingerprint_of(record, dataset)


class TestGroundTruth:
    def test_judges_what_lies_on_annotated_samples(self, dataset: Any) -> None:
        samples = dataset.values("id")
        database.samples_of(dataset).update_many(
            {"_id": {"$in": [database.ObjectId(i) for i in samples[::2]]}}, {"$set": {"ground_truth": None}}
        )
        run = make_certified_run(dataset, ground_truth="ground_truth")
        given = certifying.judge_from_ground_truth(run)
        items = certificate_audit(run)["items"]
        annotated = {database.ObjectId(i) for i in samples[1::2]}
        assert given == sum(i["sample_id"] in annotated for i in items) > 10
        assert all((i["verdict"] is not None) == (i["sample_id"] in annotated) for i in items)
        assert {i["reviewer"] for i in items} == {None, "ground truth (ground_truth)"}

    def test_says_the_same_as_a_careful_reviewer(self, dataset: Any) -> None:
        run = make_certified_run(dataset, ground_truth="ground_truth")
        expected = honest_verdicts(run, dataset)
        certifying.judge_from_ground_truth(run)
        assert {i["number"]: i["verdict"] for i in certificate_audit(run)["items"]} == expected
        assert certificate(run)["state"] == "certified"
        assert certifying.judge_from_ground_truth(run) == 0


class TestLots:
    def start(self, dataset: Any, **approval: Any) -> opening.Opened:
        lot = {"min_labels": 1500, "max_wait": "7d"}
        opened = opening.open_run(make_config(dataset, approval={**SETTINGS, "lot": lot, **approval}))
        if opened.outcome == "run" and opened.run:
            record = bring_to(opened.run, dataset, "PREDICTED")
            if lots.close_if_due(record):
                bring_to(opened.run, dataset)
            runs.release(runs.fence_of(runs.load(opened.run)))
        return opened

    def test_small_runs_wait_and_are_audited_together(self, tmp_path: Path, dataset: Any) -> None:
        first = self.start(dataset)
        assert first.run is not None
        assert runs.load(first.run)["state"] == "PREDICTED"
        assert runs.load(first.run)["lot"]["labels"] == 1000
        with pytest.raises(Exception, match=r"waits for more labels: 1000 of 1500"):
            actions.approve(first.run, Selection(all=True), "ann")
        grow(dataset, tmp_path, 120, seed=1)
        second = self.start(dataset)
        assert second.run == first.run
        assert "takes in 120 samples" in second.message
        record = runs.load(first.run)
        assert record["state"] == "IN_REVIEW"
        assert record["counts"]["samples"] == 320
        assert record["lot"]["closed"] == "full"
        assert certificate(first.run)["labels"] == 1600

    def test_nothing_new_keeps_waiting(self, dataset: Any) -> None:
        first, second = self.start(dataset), self.start(dataset)
        assert first.run == second.run
        assert second.run is not None
        assert len(runs.load(second.run)["lot"]["arrivals"]) == 1

    def test_closes_when_it_has_waited(self, dataset: Any) -> None:
        first = self.start(dataset)
        long_ago = runs.load(str(first.run))["lot"]["arrivals"][0]["at"].replace(year=2020)
        database.runs().update_one({"run": first.run}, {"$set": {"lot.arrivals.0.at": long_ago}})
        self.start(dataset)
        record = runs.load(str(first.run))
        assert (record["state"], record["lot"]["closed"]) == ("IN_REVIEW", "waited")

    def test_other_settings_end_the_waiting(self, dataset: Any) -> None:
        first = self.start(dataset)
        second = self.start(dataset, lot=None)
        assert second.run == first.run
        record = runs.load(str(first.run))
        assert (record["state"], record["lot"]["closed"]) == ("IN_REVIEW", "settings")

    def test_another_model_ends_the_waiting(self, dataset: Any) -> None:
        first = self.start(dataset)
        database.runs().update_one({"run": first.run}, {"$set": {"model.version": "the one before"}})
        second = self.start(dataset)
        assert second.run == first.run
        assert "model has changed" in second.message
        record = runs.load(str(first.run))
        assert (record["state"], record["lot"]["closed"]) == ("IN_REVIEW", "model")


class TestSettings:
    @pytest.mark.parametrize(
        ("approval", "message"),
        [
            pytest.param({"max_error": 0.0}, "max_error", id="no error at all"),
            pytest.param({"max_error": 1.0}, "max_error", id="any error"),
            pytest.param({"confidence": 1.0}, "confidence", id="certainty"),
            pytest.param({"audit": 10}, "expected 22 labels or more", id="an audit that proves nothing"),
            pytest.param({"audit": 500}, "min_group", id="an audit larger than a group"),
            pytest.param({"max_error": 0.001}, "min_group", id="a group too small for the promise"),
            pytest.param({"lot": {"max_wait": "soon"}}, "7d, 12h, 30m or 90s", id="no length of time"),
            pytest.param({"lot": {"max_wiat": "7d"}}, "max_wait", id="a typing error"),
            pytest.param({"seed": -1}, "seed", id="a negative seed"),
            pytest.param({"ground_truth": "auto"}, "its own labels", id="judged by itself"),
        ],
    )
    def test_bad_ones_are_refused(self, approval: dict[str, Any], message: str) -> None:
        values = {"dataset": "d", "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
        with pytest.raises(ConfigError, match=message):
            config_from_mapping({**values, "approval": {**SETTINGS, **approval}})

    def test_nobody_to_ask_is_refused(self) -> None:
        values = {"dataset": "d", "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
        with pytest.raises(ConfigError, match="rests on a person's verdicts"):
            config_from_mapping({**values, "approval": SETTINGS, "review": {"required": False}})
