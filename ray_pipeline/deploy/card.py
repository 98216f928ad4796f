"""The texts of a bundle for those who open it: the model card, and what MLflow reads."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import yaml

from ray_pipeline import __version__
from ray_pipeline.bundle import Manifest
from ray_pipeline.schema import Schema

_NEEDED = ("numpy", "onnxruntime", "pandas", "pyarrow", "pydantic", "universal-pathlib")
_HEADLINES = (
    *("accuracy", "f1", "precision", "recall", "roc_auc", "log_loss", "rmse", "mae", "r2"),
    *("perplexity", "token_accuracy", "perplexity_change"),
    *("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10", "mrr_change"),
)


_OF_LABELS = (
    *("f1_micro", "f1_macro", "precision_micro", "recall_micro", "subset_accuracy"),
    *("hamming_loss", "mean_average_precision", "roc_auc", "log_loss"),
)
"""The headlines where a row may have several labels."""


def mlflow_files(manifest: Manifest) -> dict[str, str]:
    """`MLmodel` and the two files that say which environment it needs.

    Written by hand: the format is documented, and importing mlflow takes over a second.
    https://mlflow.org/docs/latest/ml/model/#storage-format
    """
    model = {
        "flavors": {
            "python_function": {
                "env": {"virtualenv": "python_env.yaml"},
                "loader_module": "ray_pipeline.deploy.pyfunc",
                "python_version": platform.python_version(),
            }
        },
        "signature": {
            "inputs": json.dumps(_inputs(manifest.schema)),
            "outputs": json.dumps(_outputs(manifest)),
            "params": None,
        },
        "utc_time_created": manifest.created,
    }
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    sees = any(column.kind == "image" for column in manifest.schema.features)
    needed = (*_NEEDED, "pillow") if sees else _NEEDED
    pinned = "".join(f"{package}=={version(package)}\n" for package in needed)
    return {
        "MLmodel": yaml.safe_dump(model, sort_keys=False),
        "python_env.yaml": yaml.safe_dump(environment, sort_keys=False),
        "requirements.txt": f"# and ray-pipeline {__version__} from where you have it\n{pinned}",
    }


def readme(manifest: Manifest, rows: int, label: str) -> str:
    """The model card, as Markdown."""
    features = ", ".join(f"`{column.name}` ({column.kind})" for column in manifest.schema.features)
    found = manifest.metrics
    many = "any" if manifest.thresholds else "one"
    predicts = f"`{label}`" + (
        f", {many} of {', '.join(f'`{name}`' for name in manifest.classes)}"
        if manifest.classes
        else ""
    )
    if manifest.task == "retrieval":
        predicts = f"a vector of length 1, near to those of the `{label}` that belong to it"
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        f"Made {manifest.created} by ray-pipeline {__version__}. Predicts {predicts}, "
        f"from {features}. Learnt from {rows:,} rows.",
        "## How good it is",
        _metrics_table(found),
        *_groups(found.get("groups") or {}),
        "## How it was made",
        _facts(manifest),
        "## How to use it",
        _usage(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics_table(found: Mapping[str, Any]) -> str:
    """Figures on the split that was judged, each with its interval and the baseline's."""
    baseline, intervals = found.get("baseline") or {}, found.get("intervals") or {}
    lines = []
    for key in _OF_LABELS if found.get("thresholds") else _HEADLINES:
        value = found.get(key)
        if isinstance(value, int | float):
            low_high = intervals.get(key)
            interval = "–".join(f"{bound:.4f}" for bound in low_high) if low_high else ""
            base = baseline.get(key)
            lines.append(
                f"| {key} | {value:.4f} | {interval} | "
                f"{f'{base:.4f}' if isinstance(base, int | float) else ''} |"
            )
    if not lines:
        return "It has not been evaluated."
    about = found.get("about") or {}
    split, judged = about.get("split", "test"), about.get("rows")
    head = f"On {judged:,} {split} rows" if isinstance(judged, int) else f"On the {split} rows"
    if baseline.get("predicts"):
        head += f"; the baseline always says {baseline['predicts']}"
    elif baseline.get("is"):
        head += f"; the baseline is {baseline['is']}"
    return "\n".join(
        [
            f"{head}.\n",
            "| metric | value | interval | baseline |",
            "| --- | --- | --- | --- |",
            *lines,
        ]
    )


def _groups(groups: Mapping[str, Any]) -> list[str]:
    if not groups:
        return []
    names = ", ".join(f"`{name}`" for name in groups)
    return [f"Compared by {names}; the figures are in `manifest.json` under `metrics.groups`."]


def _facts(manifest: Manifest) -> str:
    settings = manifest.model.get("model") or {}
    shown = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in settings.items()}
    lines = ["- Network: " + ", ".join(f"{key} {value}" for key, value in shown.items())]
    form = next((row for row in manifest.compression if row["chosen"]), None)
    if form:
        lines.append(f"- Form: {form['name']}: {form['why']}.")
    if form and form["name"] != "fp32":
        plain = next(row for row in manifest.compression if row["name"] == "fp32")
        lines.append(
            f"- The figures above are the trained network's. On the validation rows it scores "
            f"{plain['score']:.4f}, and this form of it {form['score']:.4f}."
        )
    if parity := manifest.parity:
        lines.append(
            "- What is stored was compared with the trained network on "
            f"{parity['rows']:,} rows: largest difference {parity['max_difference']:.2g}."
        )
    lines += [f"- {name}: `{digest}`" for name, digest in manifest.lineage.items()]
    if manifest.base_model:
        lines.append(f"- Base model: {manifest.base_model}, licence {manifest.licence}")
    return "\n".join(lines)


def _usage(manifest: Manifest) -> str:
    if manifest.task == "generation":
        return _language_usage(manifest.parity["gguf"].get("left_out"))
    return f"""```sh
ray-pipeline deploy . --name {manifest.name}
ray-pipeline predict . rows.csv -o predictions.parquet
```

```python
import mlflow

mlflow.pyfunc.load_model(".").predict(rows)  # a pandas DataFrame of raw rows
```"""


def _inputs(schema: Schema) -> list[dict[str, Any]]:
    # Numbers are `any`: MLflow takes neither pandas' float columns (integers with a gap) as long
    # nor its integer columns as double; how they are read is checked when they are.
    # Dates may come as texts, times or numbers.
    kinds = {"category": "string", "text": "string", "boolean": "boolean", "image": "binary"}
    return [
        {"type": kinds.get(column.kind, "any"), "name": column.name, "required": True}
        for column in schema.features
    ]


def _outputs(manifest: Manifest) -> list[dict[str, Any]]:
    if manifest.task == "retrieval":
        return [{"type": "array", "items": {"type": "double"}, "name": "vector", "required": True}]
    if manifest.task == "regression":
        return [{"type": "double", "name": "value", "required": True}]
    by_class = {"type": "map", "values": {"type": "double"}, "name": "probabilities"}
    if manifest.thresholds is not None:
        texts = {"type": "array", "items": {"type": "string"}, "name": "labels"}
        return [{**texts, "required": True}, {**by_class, "required": True}]
    return [
        {"type": "string", "name": "label", "required": True},
        {"type": "double", "name": "probability", "required": True},
        {**by_class, "required": True},
    ]


def _language_usage(left_out: str | None) -> str:
    """How a language model is used, in one file for llama.cpp as well unless that is left out."""
    one_file = f"There is no `model.gguf` for llama.cpp: {left_out}." if left_out else _GGUF_USAGE
    return f"{_LANGUAGE_USAGE}\n\n{one_file}"


_LANGUAGE_USAGE = """The folder `model` is as the Hugging Face libraries and servers of language \
models want it: weights in safetensors, LoRA's additions merged into them, and the tokenizer.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

network = AutoModelForCausalLM.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
```

```sh
vllm serve model
```"""
_GGUF_USAGE = """`model.gguf` is the same in 8 bits, with the tokenizer and the chat template, for \
llama.cpp on a CPU, and for chatbots: `chat.generate: {by: llama, model: model.gguf}`.

```sh
llama-server -m model.gguf
```"""
