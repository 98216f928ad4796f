"""How good are the models, beside published ones of the same kind on the same rows?

The income job's rows, each kind of model trained once for each seed with its default settings, and
`auto` as `jobs/income_auto.yaml` searches it; judged on the official test file, which chooses
nothing. Published: the means of 15 seeds with tuned settings in the result files of Gorishniy et
al., "Revisiting Deep Learning Models for Tabular Data" (2021), https://arxiv.org/abs/2106.11959.

    python benchmarks/quality.py [--json] [--seeds 3] [--models trees ft_transformer …]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import finish, start_ray

JOBS = Path(__file__).parents[1] / "jobs"
PUBLISHED = {
    "mlp": ("MLP", 0.8522),
    "resnet": ("ResNet", 0.8544),
    "ft_transformer": ("FT-Transformer", 0.8587),
    "trees": ("LightGBM", 0.8723),
    "auto": ("CatBoost", 0.8727),
}
KEYS = ("accuracy", "roc_auc", "log_loss", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model")
    parser.add_argument("--models", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    arguments = parser.parse_args()
    import ray

    start_ray()
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            name: [one(scratch, name, seed) for seed in range(arguments.seeds)]
            for name in arguments.models
        }
    ray.shutdown()
    rows = [row(name, seeds) for name, seeds in found.items()]
    ratios = {
        f"{name}/{PUBLISHED[name][0]}": mean(seeds, "accuracy") / PUBLISHED[name][1]
        for name, seeds in found.items()
    }
    finish("quality", rows, ratios, found, arguments.json, packages=("torch", "lightgbm", "optuna"))


def one(storage: str, name: str, seed: int) -> dict[str, Any]:
    """Test figures of one training; `seconds` are those of search and training."""
    from ray_pipeline import jobfile, pipeline

    job = jobfile.read(JOBS / ("income_auto.yaml" if name == "auto" else "income.yaml"))
    tune = job.tune and job.tune.model_copy(update={"seed": seed})
    asked = job.model_copy(
        update={
            "name": "income",
            "storage": storage,
            "model": job.model.model_copy(update={"name": name}),
            "train": job.train.model_copy(update={"seed": seed}),
            "tune": tune if name == "auto" else None,
            "evaluate": job.evaluate.model_copy(update={"gates": {}, "groups": ()}),
        }
    )
    record = pipeline.run(asked, Silent(), until="evaluate")
    stages = {stage["name"]: stage for stage in record["stages"]}
    metrics = stages["evaluate"]["record"]["metrics"]
    seconds = sum(stages[name]["seconds"] for name in ("tune", "train") if name in stages)
    return {**{key: metrics[key] for key in KEYS[:-1]}, "seconds": seconds}


class Silent:
    """Follows a run and says nothing."""

    def started(self, stage: str) -> None:
        pass

    def event(self, stage: str, event: dict[str, Any]) -> None:
        pass

    def ended(self, stage: Any) -> None:
        pass


def row(name: str, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    spread = statistics.stdev([seed["accuracy"] for seed in seeds]) if len(seeds) > 1 else 0.0
    beside, published = PUBLISHED[name]
    return {
        "model": name,
        "seeds": len(seeds),
        **{key: mean(seeds, key) for key in KEYS},
        "± accuracy": spread,
        "published": f"{beside} {published}",
    }


def mean(seeds: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(seed[key] for seed in seeds)


if __name__ == "__main__":
    main()
