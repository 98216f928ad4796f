"""Vectors of texts and images that drift.py compares: of bundles that jobs/ makes, and windows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from _asked import DATA, newest_bundle
from numpy.typing import NDArray

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy import pictures, runtime, vectors
from ray_pipeline.watch import mmd

Vectors = NDArray[np.float32]
Draw = Callable[[int, np.random.Generator], Vectors]
PETS = r"\b(dogs?|cats?|kittens?|puppy|puppies)\b"
COFFEE = r"\b(coffee|k-cups?|espresso|keurig)\b"
IMAGES = 3_000
DIVISIONS = 199
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
SHOES = ("Sneaker", "Ankle boot", "Sandal")


def reviews(storage: Path | None) -> tuple[Vectors, dict[str, Draw]]:
    """The sample of jobs/reviews.yaml's bundle, and windows of the test reviews."""
    opened = bundles.opened(newest_bundle("reviews", storage))
    vectors_of, known = _of(opened)
    lines = (DATA / "reviews/testing_data.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["review"] for line in lines]

    def of(chosen: list[str]) -> Vectors:
        return vectors_of({"review": np.array(chosen, object)})

    usual = of(texts)
    first = of([re.split(r"(?<=[.!?])\s", text)[0] for text in texts])
    pets, coffee = (
        of([text for text in texts if re.search(words, text, re.IGNORECASE)])
        for words in (PETS, COFFEE)
    )
    windows = {f"reviews, {share:.0%} of pet food": mixed(usual, pets, share) for share in SHARES}
    windows["reviews, all of coffee"] = mixed(usual, coffee, 1)
    windows |= {f"reviews, {s:.0%} one sentence": mixed(usual, first, s) for s in (0.3, 1.0)}
    return known, windows


def clothes(storage: Path | None) -> tuple[Vectors, dict[str, Draw]]:
    """The sample of jobs/fashion.yaml's bundle, and windows of the test images."""
    opened = bundles.opened(newest_bundle("fashion", storage))
    vectors_of, known = _of(opened)
    table = pq.read_table(DATA / "fashion/test.parquet").slice(0, IMAGES)
    schema, image = opened.manifest.schema, pictures.image_of(opened.manifest)
    pixels = runtime.columns_from_table(table, schema, image)["image"]
    usual, inverted = (vectors_of({"image": each}) for each in (pixels, 255 - pixels))
    brighter = vectors_of({"image": np.clip(pixels.astype(int) + 40, 0, 255).astype(np.uint8)})
    others = usual[~np.isin(np.array(table["label"].to_pylist()), SHOES)]
    windows = {f"clothes, {s:.0%} inverted": mixed(usual, inverted, s) for s in SHARES}
    windows["clothes, all brighter by 40 of 255"] = mixed(usual, brighter, 1)
    windows["clothes, no shoes"] = mixed(others, others, 0)
    return known, windows


def _of(opened: bundles.Bundle) -> tuple[vectors.Reading, Vectors]:
    """What makes vectors of rows, and those that the bundle keeps."""
    vectors_of, known = vectors.reading_of(opened), vectors.known(opened)
    if vectors_of is None or known is None:
        sys.exit(f"{opened.path} keeps no vectors: run its job again")
    return vectors_of, known


def mixed(usual: Vectors, others: Vectors, share: float) -> Draw:
    """Draws of both, with replacement where there are fewer."""

    def draw(count: int, rng: np.random.Generator) -> Vectors:
        drifted = round(share * count)
        parts = [
            rows[rng.choice(len(rows), n, replace=n > len(rows))]
            for rows, n in ((usual, count - drifted), (others, drifted))
        ]
        return np.concatenate(parts)

    return draw


def by_mmd(known: Vectors, seen: Vectors) -> tuple[float, float]:
    """The size and the chance, as a look has them."""
    return mmd.apart(known, seen, DIVISIONS)


def by_classifier(known: Vectors, seen: Vectors) -> tuple[float, float]:
    """What else could be asked: how well a logistic regression that learned from half of the rows
    tells the other half's (the area under the curve less a half), and Mann's and Whitney's chance
    of that."""
    from scipy import stats
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([known, seen])
    is_seen = np.arange(len(rows)) >= len(known)
    learned = np.random.default_rng(0).random(len(rows)) < 0.5
    mean, spread = rows[learned].mean(0), rows[learned].std(0) + 1e-9
    scaled = (rows - mean) / spread
    model = LogisticRegression(C=0.1, max_iter=200).fit(scaled[learned], is_seen[learned])
    scores = model.decision_function(scaled)
    ours, theirs = scores[~learned & is_seen], scores[~learned & ~is_seen]
    found = stats.mannwhitneyu(ours, theirs, alternative="greater")
    return float(found.statistic / (len(ours) * len(theirs)) - 0.5), float(found.pvalue)


TESTS: Mapping[str, Callable[[Vectors, Vectors], tuple[float, float]]] = {
    "MMD": by_mmd,
    "a classifier": by_classifier,
}
