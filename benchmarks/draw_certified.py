"""The picture of docs/certified.md: ``python benchmarks/draw_certified.py [docs/certified.png]``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.certify_worlds import synthetic
from valflow.certify import Promise, certify, draw_audit, fit_scores, propose

_RISK, _SAFE, _INK, _FAINT = "#c0392b", "#2e7d4f", "#222222", "#8a8a8a"
_TOTAL = 10_000


def main() -> int:
    """Draw it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(11)
    past, batch = synthetic(rng, 600), synthetic(rng, _TOTAL)
    model = fit_scores(past.confidence, past.classes, past.correct)
    quality = model.quality(batch.confidence, batch.classes)
    proposal = propose(quality, batch.classes, Promise(), history=600, scope="pooled", audit=400)
    draw = draw_audit(proposal, 3)
    result = certify(proposal, draw, batch.correct[draw.positions].tolist())
    group = result.groups[0]
    assert group.certificate is not None
    order = np.argsort(-quality, kind="stable")
    share = np.arange(1, _TOTAL + 1) / _TOTAL
    true = np.cumsum(~batch.correct[order]) / np.arange(1, _TOTAL + 1)
    predicted = np.cumsum(1 - quality[order]) / np.arange(1, _TOTAL + 1)
    edge = group.certificate.total / _TOTAL

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), width_ratios=(1.6, 1), layout="constrained")
    left.axvspan(0, edge, color=_SAFE, alpha=0.13, lw=0)
    left.axhline(0.05, color=_RISK, lw=1)
    left.text(0.015, 0.052, "promise: at most 5 %", color=_RISK, va="bottom", fontsize=9)
    left.plot(share[50:], predicted[50:], color=_FAINT, lw=1.2, ls="--", label="predicted by the score")
    left.plot(share[50:], true[50:], color=_INK, lw=1.8, label="truth (not known to the pipeline)")
    place = np.empty(_TOTAL)
    place[order] = share
    for right_one, color, height in ((True, _SAFE, -0.004), (False, _RISK, -0.009)):
        seen = draw.positions[batch.correct[draw.positions] == right_one]
        left.plot(place[seen], np.full(len(seen), height), "|", color=color, ms=5, mew=0.7, clip_on=False)
    left.text(edge / 2, 0.108, f"certified: {edge:.0%}", color=_SAFE, ha="center", weight="bold")
    left.text(0.99, 0.02, "review queue", color=_INK, ha="right")
    left.annotate(
        f"{group.certificate.audited} drawn at random,\n{group.certificate.wrong} wrong (red)",
        xy=(edge * 0.55, -0.004), xytext=(0.1, 0.03), fontsize=9, color=_INK,
        arrowprops={"arrowstyle": "-", "color": _FAINT, "lw": 0.8},
    )  # fmt: skip
    left.set(
        xlim=(0, 1),
        ylim=(-0.012, 0.12),
        xlabel="labels, best score first",
        ylabel="wrong among them, from the left",
    )
    left.set_yticks([0, 0.05, 0.1], ["0", "5 %", "10 %"])
    left.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    left.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0.02, 0.86))

    looks = [1000.0, 1000 * result.looks / _TOTAL]
    audit = 1000 * len(draw.positions) / _TOTAL
    right.barh([1, 0], looks, color=[_FAINT, _FAINT], height=0.5)
    right.barh([0], [audit], color=_SAFE, height=0.5)
    for y, value, text in ((1, looks[0], "1,000"), (0, looks[1], f"{looks[1]:,.0f}")):
        right.text(value - 12, y, text, ha="right", va="center", color="white", weight="bold")
    right.text(audit / 2, -0.34, f"audit {audit:.0f}", ha="center", va="top", fontsize=9, color=_SAFE)
    right.set_yticks([1, 0], ["review\neverything", "certified"])
    right.set(xlabel="looks per 1,000 labels", xlim=(0, 1020), ylim=(-0.7, 1.4))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs/certified.png"
    )
    figure.savefig(path, dpi=110)
    print(path, group.sentence, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
