"""2013's flights against a live endpoint that is watched: `python jobs/flights_live.py`.

January and February make the first model. Then each month is asked about, flight by flight of a
sample; what became of them is told, and after every 250 `watch` looks. At its end the month is put
into the folder that `watch` learns from. When October begins, somebody releases a model that
learned from labels which were mixed up. The last line is JSON: how often a challenger was promoted,
refused and rolled back, and the accuracy over the year of the endpoint as it was watched, and of
the first model had it stayed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
from fetch import HERE, fetched

from ray_pipeline import bundle, charts, cluster, jobfile
from ray_pipeline.commands_watch import lines, watching_of
from ray_pipeline.deploy import auth, log_files, release
from ray_pipeline.deploy.predictions import plain_numbers, prediction_maker
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.job import Job
from ray_pipeline.watch import window

PLACE = HERE / "data" / "flights_live"
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
FEATURES = ["carrier", "origin", "dest", "hour", "minute", "weekday", "distance", *WEATHER]
FIRST, SPOILED, REQUEST, BETWEEN = 2, 10, 100, 250
STYLE = """<style>svg{width:720px;font:11px sans-serif}polyline{fill:none;stroke:#c2410c;
stroke-width:1.5}polyline.second{stroke:#1668b0}.name{fill:#c2410c}.name.second{fill:#1668b0}
.grid{stroke:#ddd}.base,.mark{stroke:#888}</style>"""


class Year:
    """The replay: what was asked of whom, and what came of it."""

    def __init__(self, job: Job, rows: int) -> None:
        self.job, self.rows = job, rows
        self.watching = watching_of(job)
        self.decisions: list[dict[str, Any]] = []
        self.watched: list[tuple[float, float]] = []
        self.never: list[tuple[float, float]] = []
        self.first = ""

    def look(self) -> None:
        """What `ray-pipeline watch JOB --once` does."""
        decision = self.watching.once()
        self.decisions.append(decision)
        print("\n".join(lines(decision)), file=sys.stderr, flush=True)

    def month(self, number: int) -> None:
        """Ask about a sample of a month's flights, tell what became of them, and look meanwhile."""
        flights = pd.read_parquet(PLACE / "all" / _file(number))
        some = flights.sample(min(self.rows, len(flights)), random_state=number)
        if number == SPOILED:
            release.deploy(self.spoiled(), self.job.name, self.job.served, why="by hand")
        hits: list[bool] = []
        for at in range(0, len(some), BETWEEN):
            hits += self.asked(some[at : at + BETWEEN])
            self.look()
        self.watched.append((number, float(np.mean(hits))))
        self.never.append((number, self.accuracy_of_first(some)))
        print(
            f"month {number}: accuracy {self.watched[-1][1]:.4f} watched, "
            f"{self.never[-1][1]:.4f} never retrained",
            file=sys.stderr,
        )
        shutil.copy(PLACE / "all" / _file(number), PLACE / "known" / _file(number))
        self.look()

    def asked(self, some: pd.DataFrame) -> list[bool]:
        """Which flights were answered rightly; the log has them and their labels when it ends."""
        headers = {"X-API-Key": auth.key()}
        url = f"http://127.0.0.1:{self.job.serve.port}/{self.job.name}"
        hits: list[bool] = []
        rows = json.loads(some[FEATURES].to_json(orient="records"))
        truth = some["arrival"].tolist()
        before = self.told()
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            for at in range(0, len(rows), REQUEST):
                answer = client.post("/predict", json={"rows": rows[at : at + REQUEST]}).json()
                labels = truth[at : at + REQUEST]
                said = [one["label"] for one in answer["predictions"]]
                hits += [a == b for a, b in zip(said, labels, strict=True)]
                told = [
                    {"id": answer["id"], "row": row, "label": label}
                    for row, label in enumerate(labels)
                ]
                client.post("/feedback", json={"feedback": told}).raise_for_status()
        while self.told() < before + len(rows):
            time.sleep(0.2)
        return hits

    def told(self) -> int:
        """Labels that the log has; they are written after the requests that they are of."""
        live = release.live(self.job.name)
        kept = log_files.folder(live or "", self.job.name) / log_files.FEEDBACK
        table = log_files.newest(kept, 10**7)
        return 0 if table is None else len(table)

    def accuracy_of_first(self, some: pd.DataFrame) -> float:
        opened = bundle.opened(self.first)
        table = pa.Table.from_pandas(some[FEATURES], preserve_index=False)
        outputs = Predictor(opened).predict(columns_from_table(table, opened.manifest.schema))
        say = prediction_maker(opened.manifest)
        said = np.array([say(one)["label"] for one in plain_numbers(outputs)])
        return float((said == some["arrival"].to_numpy()).mean())

    def spoiled(self) -> str:
        """The bundle of a model that learned that flights on time are late, and the other way."""
        from ray_pipeline import pipeline, progress

        for number in (1, 2):
            flights = pd.read_parquet(PLACE / "all" / _file(number))
            turned = {"late": "on time", "on time": "late"}
            flights["arrival"] = [turned[one] for one in flights["arrival"]]
            flights.to_parquet(PLACE / f"turned-{number}.parquet")
        files = [str(PLACE / f"turned-{number}.parquet") for number in (1, 2)]
        job = window.challenger(self.job, files[:1], files[1:], "")
        with progress.watcher() as watcher:
            return str(pipeline.run(job, watcher, until="export")["bundle"])

    def metrics(self) -> dict[str, float]:
        outcomes = [one["outcome"] for one in self.decisions]
        return {
            **{name: outcomes.count(name) for name in ("promoted", "refused", "rolled_back")},
            "accuracy_watched": round(float(np.mean([y for _, y in self.watched])), 4),
            "accuracy_never_retrained": round(float(np.mean([y for _, y in self.never])), 4),
        }


def written() -> None:
    """The flights of each month that arrived, with the weather of their hour and place."""
    folder = fetched("flights")
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    flights = flights[flights["arr_delay"].notna()].merge(
        weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left"
    )
    flights["arrival"] = np.where(flights["arr_delay"] > 15, "late", "on time")
    flights["weekday"] = pd.to_datetime(flights["time_hour"]).dt.day_name()
    (PLACE / "all").mkdir(parents=True, exist_ok=True)
    for number, month in flights.groupby("month"):
        month[[*FEATURES, "arrival"]].to_parquet(PLACE / "all" / _file(number), index=False)


def _file(month: int) -> str:
    return f"2013-{month:02}.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="flights a month that are asked")
    parser.add_argument("--until", type=int, default=12, help="the last month")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--picture", type=Path, default=PLACE / "accuracy.html")
    options = parser.parse_args()
    job = jobfile.read(HERE / "flights_live.yaml", options.set)
    written()
    shutil.rmtree(PLACE / "known", ignore_errors=True)
    (PLACE / "known").mkdir()
    for number in range(1, FIRST + 1):
        shutil.copy(PLACE / "all" / _file(number), PLACE / "known" / _file(number))
    cluster.connect()
    cluster.warm()
    if release.live(job.name):
        sys.exit(f"{job.name} is live; `ray-pipeline down` first")
    for told in (f"{job.name}/watch", f"{job.name}/log", f"releases/{job.name}"):
        shutil.rmtree(Path(job.storage) / told, ignore_errors=True)  # of an earlier replay
    year = Year(job, options.rows)
    year.look()
    year.first = release.live(job.name) or ""
    for number in range(FIRST + 1, options.until + 1):
        year.month(number)
    drawn = [
        charts.Line("never", year.never, "first"),
        charts.Line("watched", year.watched, "second"),
    ]
    options.picture.write_text(STYLE + str(charts.curves(drawn, "month of 2013", "accuracy")))
    print(json.dumps({"run": "flights_live", "metrics": year.metrics()}))


if __name__ == "__main__":
    main()
