"""What does balancing the training rows do to the gap between groups, and what does it cost?

The income job's rows and network, without the search, trained once for each seed and way of
balancing, and judged on the official test file. Beside it scikit-learn's logistic regression on
the same prepared rows with the same weights, as one would write it by hand: it shows whether an
effect is the method's or the network's. Means over the seeds; the `±` is their standard deviation.

    python benchmarks/fairness.py [--json] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import finish, start_ray

JOB = Path(__file__).parents[1] / "jobs" / "income.yaml"
WAYS: dict[str, dict[str, Any]] = {
    "as they come": {},
    "sex left out": {"columns.sex": {"kind": "category", "role": "ignore"}},
    "reweigh by sex": {"balance": {"by": ["sex"]}},
    "resample by sex": {"balance": {"by": ["sex"], "method": "resample"}},
    "reweigh by sex and race": {"balance": {"by": ["sex", "race"]}},
    "balanced classes": {"balance": {"classes": "balanced"}},
    "reweigh by sex, balanced classes": {"balance": {"by": ["sex"], "classes": "balanced"}},
}
KEYS = ("accuracy", "roc_auc")
GAPS = (
    "demographic_parity_difference",
    "equalized_odds_difference",
    "equal_opportunity_difference",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each way")
    arguments = parser.parse_args()
    import ray

    start_ray()
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(Path(scratch), range(arguments.seeds))
    ray.shutdown()
    report(found, arguments.json)


def measured(scratch: Path, seeds: range) -> dict[tuple[str, str], list[dict[str, float]]]:
    """The figures of each seed by way and model; scikit-learn's has no seed, and one entry."""
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.data import clean, collect, split

    job = jobfile.read(JOB)
    whole = collect.schema(job.data)
    cleaned, sides = (folder(UPath(scratch) / name) for name in ("clean", "split"))
    clean.write(job.data, whole, cleaned)
    split.write(cleaned, job.data, whole, sides)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number, (way, changes) in enumerate(WAYS.items()):
        place = folder(UPath(scratch) / str(number))
        schema, prepared = prepared_rows(job, changes, sides, folder(place / "features"))
        found[way, "scikit-learn"] = [by_hand(prepared, sides, job)]
        found[way, "ours"] = [
            ours(job, schema, prepared, sides, out=folder(place / str(seed)), seed=seed)
            for seed in seeds
        ]
    return found


def prepared_rows(job: Any, changes: dict[str, Any], sides: Any, out: Any) -> tuple[Any, Any]:
    from ray_pipeline.data import collect, features
    from ray_pipeline.job import Data

    settings = job.data.model_dump(by_alias=True)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            settings[section] = {**settings[section], name: value}
        else:
            settings[section] = value
    data = Data.model_validate(settings)
    schema = collect.schema(data)
    features.write(sides, data, schema, out)
    return schema, out


def ours(
    job: Any, schema: Any, prepared: Any, sides: Any, *, out: Any, seed: int
) -> dict[str, float]:
    from ray_pipeline.model import evaluate, train

    settings = job.train.model_copy(update={"seed": seed, "workers": 0})
    work, judged = folder(out / "work"), folder(out / "judged")
    train.write(prepared, job.model, settings, out, work=work, progress=lambda event: None)
    wanted = job.evaluate.model_copy(update={"bootstrap": 0})
    metrics = evaluate.write(out, prepared, sides, schema, wanted, out=judged)["metrics"]
    sex = metrics["groups"]["sex"]
    return {key: metrics[key] for key in KEYS} | {key: sex[key] for key in GAPS}


def by_hand(prepared: Any, sides: Any, job: Any) -> dict[str, float]:
    """Logistic regression on the prepared rows; the gaps are fairlearn's."""
    import fairlearn.metrics
    import numpy as np
    import pyarrow.dataset as pads
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    from ray_pipeline.data import features
    from ray_pipeline.data.compiled import compiled_arrow

    rows = features.read_matrix(prepared / "train")
    described = features.load(prepared)
    test = pads.dataset((sides / "test").path).to_table()
    ready = compiled_arrow(described)(test)
    known = OneHotEncoder(handle_unknown="ignore").fit(rows["categories"])

    def matrix(numbers: Any, categories: Any) -> Any:
        from scipy.sparse import csr_matrix, hstack

        return hstack([csr_matrix(numbers), known.transform(categories)]).tocsr()

    model = make_pipeline(LogisticRegression(max_iter=500))
    model.fit(
        matrix(rows["numbers"], rows["categories"]),
        rows["label"],
        logisticregression__sample_weight=rows.get("weight"),
    )
    numbers, categories = (np.stack(ready[name].to_numpy()) for name in ("numbers", "categories"))
    chances = model.predict_proba(matrix(numbers, categories))
    label = ready["label"].to_numpy()
    positive = list(described.label.classes).index(job.evaluate.positive)
    true, said = label == positive, chances.argmax(1) == positive
    return {
        "accuracy": accuracy_score(true, said),
        "roc_auc": roc_auc_score(true, chances[:, positive]),
        **{
            gap: getattr(fairlearn.metrics, gap)(
                true, said, sensitive_features=test["sex"].to_pylist()
            )
            for gap in GAPS
        },
    }


def folder(path: Any) -> Any:
    path.mkdir(parents=True)
    return path


def report(found: dict[tuple[str, str], list[dict[str, float]]], as_json: bool) -> None:
    def mean(way: str, model: str, key: str) -> float:
        return statistics.fmean(run[key] for run in found[way, model])

    rows = [
        {"rows": way, "model": model} | {key: _shown(runs, key) for key in (*KEYS, *GAPS)}
        for (way, model), runs in found.items()
    ]
    ratios = {
        f"{gap} as they come/reweighed": mean("as they come", "ours", gap)
        / mean("reweigh by sex", "ours", gap)
        for gap in GAPS
    }
    ratios["accuracy reweighed/as they come"] = mean("reweigh by sex", "ours", "accuracy") / mean(
        "as they come", "ours", "accuracy"
    )
    figures = {f"{way}, {model}": runs for (way, model), runs in found.items()}
    packages = ("ray", "torch", "scikit-learn", "fairlearn")
    finish("fairness", rows, ratios, figures, as_json, packages=packages)


def _shown(runs: list[dict[str, float]], key: str) -> str:
    values = [run[key] for run in runs]
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


if __name__ == "__main__":
    main()
