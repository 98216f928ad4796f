"""The steps of jobs/income.yaml as a bare script: pandas, scikit-learn, Optuna, torch, FastAPI.

What a careful person would write for this one data set: no quarantine, no resuming, no report,
no tracking, no groups, no autoscaling. `python benchmarks/_bare.py` prints one line of JSON.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import optuna
import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI
from onnxruntime.quantization import quantize_dynamic
from pydantic import BaseModel
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer
from torch import Tensor, nn

HERE = Path(__file__).parents[1] / "jobs" / "data" / "adult"
NUMBERS = ["age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
CATEGORIES = [
    "workclass", "education", "marital-status", "occupation",
    "relationship", "race", "sex", "native-country",
]  # fmt: skip
COLUMNS = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "income",
]  # fmt: skip
Part = tuple[Tensor, Tensor, Tensor]


class Net(nn.Module):
    def __init__(self, sizes: list[int], width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, 16) for size in sizes])
        layers: list[nn.Module] = []
        inputs = len(NUMBERS) + 16 * len(sizes)
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, 2))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        embedded = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return self.layers(torch.cat([numbers, *embedded], dim=1))


class Row(BaseModel):
    values: dict[str, int | float | str | None]


def read(name: str) -> pd.DataFrame:
    frame = pd.read_csv(
        HERE / name, names=COLUMNS, skipinitialspace=True, na_values="?", comment="|"
    ).dropna(subset=["income"])
    return frame.assign(income=frame["income"].str.strip(".").eq(">50K").astype("int64"))


def epoch(net: Net, optimizer: torch.optim.Optimizer, part: Part, batch: int) -> None:
    net.train()
    for rows in torch.randperm(len(part[2])).split(batch):
        optimizer.zero_grad()
        logits = net(part[0][rows], part[1][rows])
        nn.functional.cross_entropy(logits, part[2][rows]).backward()
        optimizer.step()


@torch.no_grad()
def loss(net: Net, part: Part) -> float:
    net.eval()
    return nn.functional.cross_entropy(net(part[0], part[1]), part[2]).item()


def search(sizes: list[int], train: Part, valid: Part, trials: int, epochs: int) -> dict[str, Any]:
    def objective(trial: optuna.Trial) -> float:
        net = Net(
            sizes,
            trial.suggest_categorical("width", [64, 128, 256]),
            trial.suggest_int("depth", 1, 3),
            trial.suggest_float("dropout", 0.0, 0.4),
        )
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=trial.suggest_float("rate", 3e-4, 1e-2, log=True),
            weight_decay=trial.suggest_float("decay", 1e-6, 1e-3, log=True),
        )
        best = np.inf
        for step in range(1, epochs + 1):
            epoch(net, optimizer, train, 512)
            best = min(best, loss(net, valid))
            trial.report(best, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    study.optimize(objective, n_trials=trials)
    return study.best_params


def fit(sizes: list[int], train: Part, valid: Part, best: dict[str, Any], epochs: int) -> Net:
    net = Net(sizes, best["width"], best["depth"], best["dropout"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=best["rate"], weight_decay=best["decay"])
    lowest, kept, waited = np.inf, copy.deepcopy(net.state_dict()), 0
    for _ in range(epochs):
        epoch(net, optimizer, train, 512)
        now = loss(net, valid)
        waited = 0 if now < lowest else waited + 1
        if now < lowest:
            lowest, kept = now, copy.deepcopy(net.state_dict())
        if waited == 4:
            break
    net.load_state_dict(kept)
    return net


def serve_and_ask(session: onnxruntime.InferenceSession, scale: Any, index: Any, row: Any) -> Any:
    app = FastAPI()

    @app.post("/predict")
    def predict(row: Row) -> dict[str, float]:
        frame = pd.DataFrame([row.values], columns=[*NUMBERS, *CATEGORIES])
        numbers = scale.transform(frame[NUMBERS]).astype("float32")
        categories = index.transform(frame[CATEGORIES]).astype("int64") + 1
        (logits,) = session.run(None, {"numbers": numbers, "categories": categories})
        return {"probability": float(1 / (1 + np.exp(logits[0, 0] - logits[0, 1])))}

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps({"values": row}).encode(),
        {"content-type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request))
    server.should_exit = True
    thread.join()
    return answer


def main(trials: int, epochs: int, final_epochs: int) -> None:
    torch.manual_seed(0)
    marks = [("start", time.monotonic())]
    rows, test = read("adult.data").drop_duplicates(), read("adult.test")
    train, valid = train_test_split(rows, test_size=0.15, random_state=0)
    scale = QuantileTransformer(output_distribution="normal").fit(train[NUMBERS])
    index = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
    ).fit(train[CATEGORIES])

    def part(frame: pd.DataFrame) -> Part:
        return (
            torch.tensor(scale.transform(frame[NUMBERS]).astype("float32")),
            torch.tensor(index.transform(frame[CATEGORIES]).astype("int64") + 1),
            torch.tensor(frame["income"].to_numpy()),
        )

    parts = part(train), part(valid)
    sizes = [len(values) + 1 for values in index.categories_]
    marks.append(("data", time.monotonic()))
    best = search(sizes, *parts, trials, epochs)
    marks.append(("tune", time.monotonic()))
    net = fit(sizes, *parts, best, final_epochs).eval()
    marks.append(("train", time.monotonic()))
    asked = part(test)
    with torch.no_grad():
        scores = net(asked[0], asked[1]).softmax(1)[:, 1].numpy()
    labels = asked[2].numpy()
    figures = {
        "accuracy": float(((scores > 0.5) == labels).mean()),
        "f1": float(f1_score(labels, scores > 0.5)),
        "roc_auc": float(roc_auc_score(labels, scores)),
    }
    marks.append(("evaluate", time.monotonic()))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        dynamic = {"numbers": {0: "rows"}, "categories": {0: "rows"}}
        torch.onnx.export(
            net, (asked[0][:2], asked[1][:2]), path, dynamo=False,
            input_names=list(dynamic), output_names=["logits"], dynamic_axes=dynamic,
        )  # fmt: skip
        onnx.checker.check_model(path)
        quantize_dynamic(path, f"{folder}/int8.onnx")
        session = onnxruntime.InferenceSession(path)
    marks.append(("export", time.monotonic()))
    row = test[NUMBERS + CATEGORIES].iloc[0].to_dict()
    serve_and_ask(session, scale, index, row)
    marks.append(("serve", time.monotonic()))
    seconds = {
        name: round(now - before, 2) for (_, before), (name, now) in itertools.pairwise(marks)
    }
    print(json.dumps({"seconds": seconds, **figures}))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
