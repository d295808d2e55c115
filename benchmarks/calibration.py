"""Calibration of a ranker that was trained on a log of which only a tenth of the rows without a click was kept.

    mim bench calibration

The logs are those of `mim bench labels`, a log a seed.  The ranker is trained and calibrated on thinned rows; its
predictions are held against whole ones, whose click probabilities are known.  Wanted: a calibration error of at most
a third of the uncorrected one, and a mean prediction within 2 % of the mean probability.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from statistics import mean
from typing import get_args

import numpy as np

from benchmarks.labels import CONFIG, USERS, generate, predicted, trained
from benchmarks.report import publish
from mim_keras.metrics import auc, calibration_error
from mim_keras.serving.calibration import Kind, fit_calibration, undo_sampling

RATE, VALID = 0.1, 0.2  # of the rows without a click; share of the training rows that calibrate
ERROR_TARGET, MEAN_TARGET = 1 / 3, 0.02


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kind", choices=get_args(Kind), default="platt")
    arguments = parser.parse_args(words)
    turns = []
    for seed in range(1, arguments.seeds + 1):
        turns.append(measure(seed, arguments.kind))
        print(seed, turns[-1], file=sys.stderr, flush=True)
    means = {name: round(mean(turn[name] for turn in turns), 4) for name in turns[0]}
    ratio = means["error after"] / means["error before"]
    met = ratio <= ERROR_TARGET and all(abs(turn["mean prediction / rate"] - 1) <= MEAN_TARGET for turn in turns)
    details = {"kind": arguments.kind, "rate": RATE, "means": means, "seeds": turns}
    publish("calibration", round(ratio, 4), "of the error", ERROR_TARGET, details, met, less_is_better=True)


def measure(seed: int, kind: Kind) -> dict[str, float]:
    """Calibration errors and mean predictions on whole rows."""
    log = generate(seed)
    rng = np.random.default_rng(seed)
    clicked, inputs = log["labels"][:, 0], log["inputs"]
    thinned = log["trained"] & ((clicked > 0) | (rng.random(len(clicked)) < RATE))
    is_valid = np.isin(inputs["user_index"], rng.choice(np.arange(1, USERS + 1), int(VALID * USERS), replace=False))
    train, valid, test = (np.flatnonzero(rows) for rows in (thinned & ~is_valid, thinned & is_valid, ~log["trained"]))
    model = trained(log, replace(CONFIG, negative_sampling_rate=RATE), clicked, train, seed)
    of_valid, of_test = (predicted(model, log, rows)["ctr"] for rows in (valid, test))
    fitted = fit_calibration(kind, clicked[valid], of_valid, inputs["user_index"][valid])
    calibrated = of_test
    if fitted is not None and fitted.calibration is not None:
        calibrated = fitted.calibration.apply(of_test)
    corrected = np.asarray(undo_sampling(calibrated, RATE))
    label, probability = clicked[test], log["p"]["click"][test]
    found = {
        "error before": calibration_error(label, of_test),
        "error without calibration": calibration_error(label, np.asarray(undo_sampling(of_test, RATE))),
        "error after": calibration_error(label, corrected),
        "mean prediction / rate": float(corrected.mean() / probability.mean()),
        "uncorrected mean / rate": float(of_test.mean() / probability.mean()),
        "auc": auc(label, corrected),
    }
    return {name: round(value, 4) for name, value in found.items()}


if __name__ == "__main__":
    main()
