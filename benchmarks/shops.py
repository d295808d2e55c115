"""`mim init` and `mim run` with default settings on twelve generated shops, against the baselines of the same runs.

    mim bench shops
    mim bench shops --only words_only --work DIR      (keeps the shops and the runs in DIR)

Every run must end.  No ranker may be below its best baseline by more than .005 AUC, or by more than the interval of the
difference where that is wider.  A ranker of labels that are noise must not be released.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.generated_shops import SHOPS, write_shop
from benchmarks.report import PROJECT, publish

MARGIN = 0.005


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SHOPS)
    parser.add_argument("--work", type=Path, default=None, help="kept where given; a temporary folder otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    arguments = parser.parse_args(words)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {}
        for name in arguments.only or SHOPS:
            found[name] = run_shop(name, work / name, arguments.seed, arguments.sets)
            print(name, {key: value for key, value in found[name].items() if key != "log"}, file=sys.stderr, flush=True)
    publish("shops", sum(shop["met"] for shop in found.values()), "shops", len(found), {"shops": found})


def run_shop(name: str, folder: Path, seed: int = 0, sets: list[str] | None = None) -> dict[str, Any]:
    """One shop, from its files to its verdict.

    Returns:
        `seconds`, `ended`, and of a run that ended `auc`, `gauc`, `oracle` (the AUC of the true probabilities on the
        last tenth), `best`, `best_auc`, `difference` with `low` and `high`, `released`; `met`: whether all holds.
    """
    from mim_keras.metrics import auc

    shop = SHOPS[name]
    probability = write_shop(shop, folder / "shop", seed)
    pictures = ["--images", str(folder / "shop/pictures")] * (shop.pictures != "none")
    files = ["--items", str(folder / "shop/items.csv"), "--impressions", str(folder / "shop/impressions.csv")]
    begun = time.monotonic()
    log = _mim("init", *files, *pictures, "--force")
    root = folder / "run"
    if log[0] == 0:
        log = _mim(
            "run", "--data", str(folder / "shop"), "--root", str(root), *[w for s in sets or () for w in ("--set", s)]
        )
    result: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 1), "ended": log[0] == 0}
    if log[0]:
        return result | {"met": False, "log": log[1][-2_000:]}
    import pandas as pd

    from tfx_pipeline.runners.newest import newest_metrics

    clicked = pd.read_csv(folder / "shop/impressions.csv")["clicked"].to_numpy()
    tail = slice(-(len(clicked) // 10), None)
    metrics = newest_metrics(root)
    compared = metrics["baselines"] | {"released": metrics["released"]}
    best = compared["baselines"][compared["best"]]
    result |= {"auc": compared["ranker"]["auc"], "gauc": compared["ranker"]["gauc"], "best": compared["best"]}
    result |= {"best_auc": best["auc"], "oracle": float(auc(clicked[tail], probability[tail]))}
    result |= {key: compared[key] for key in ("rows", "difference", "low", "high")} | {"released": compared["released"]}
    behind = -(compared["difference"] or 0.0)
    noise = not (shop.taste or shop.popularity)
    allowed = max(MARGIN, ((compared["high"] or 0.0) - (compared["low"] or 0.0)) / 2)
    result["met"] = bool(not compared["released"] if noise else behind <= allowed)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}


def _mim(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    main()
