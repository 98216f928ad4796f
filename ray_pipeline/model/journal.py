"""What became of a search's trials, written down as each one ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from upath import UPath

from ray_pipeline import files
from ray_pipeline.job import Tune
from ray_pipeline.model import loop
from ray_pipeline.model.objectives import LATENCY, LOSS, dominates, keys

Record = dict[str, Any]
MEASURES = ("train_loss", LOSS, "score", LATENCY)
REDUCTION = 3
"""At each rung, one trial in this many goes on."""


class Journal:
    """Ended trials in a file, so that none is run twice, and the epochs of those under way."""

    def __init__(self, path: UPath, trials: int, progress: Callable[[Record], None]) -> None:
        self.path, self.trials, self.progress = path, trials, progress
        self.ended: list[Record] = json.loads(path.read_text()) if path.exists() else []
        self.histories: dict[str, list[Record]] = {}

    def usable(self) -> list[Record]:
        """The trials that did not fail."""
        return [trial for trial in self.ended if trial["state"] != "failed"]

    def note(self, trial: str, result: Record, **more: Any) -> None:
        """Add an epoch of a trial under way; one that is there already stays as it is."""
        history = self.histories.setdefault(trial, [])
        if result["epoch"] <= len(history):
            return
        measures = {name: result[name] for name in MEASURES if name in result}
        seconds = round(result["time_this_iter_s"], 4)
        history.append({"epoch": len(history) + 1, **measures, "seconds": seconds, **more})

    def end(
        self, trial: str, settings: Record, state: str, error: str | None = None, **more: Any
    ) -> None:
        """Write the trial down as ended, and tell whoever follows the progress."""
        history = self.histories.pop(trial, [])
        top = history[loop.best_epoch(history)] if history else {}
        reached = {name: top.get(name) for name in MEASURES[1:] if name != LATENCY or name in top}
        self.ended.append(
            {
                "settings": settings,
                **{name: _written(value) for name, value in reached.items()},
                "epochs": len(history),
                "state": state,
                "error": error,
                "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
                "history": [{k: _written(v) for k, v in epoch.items()} for epoch in history],
                **more,
            }
        )
        files.write_whole(self.path, json.dumps(self.ended).encode())
        found = min(self.usable(), key=lambda trial: float(trial[LOSS]), default=None)
        event = {"trial": len(self.ended), "trials": self.trials}
        self.progress({**event, "best": found["score"] if found else None})


def _written(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Halving(ASHAScheduler):
    """ASHA that keeps a journal. Where the latency counts too, a trial is stopped at a rung if
    another that got as far is both better and faster: halving by loss alone would leave only large
    networks.

    A Tune callback would be the place for the journal, but giving Tune one makes it import MLflow
    for its usage statistics, which takes over a second.
    """

    def __init__(self, journal: Journal, settings: Tune) -> None:
        super().__init__(
            metric=LOSS,
            mode="min",
            max_t=settings.epochs,
            grace_period=1,
            reduction_factor=REDUCTION,
        )
        self.journal, self.settings = journal, settings
        powers = (REDUCTION**power for power in range(settings.epochs.bit_length()))
        self.reached: dict[int, list[tuple[float, ...]]] = {epochs: [] for epochs in powers}

    def __getstate__(self) -> Record:
        # Tune stores its scheduler; the journal and who follows it stay in this process.
        return {**self.__dict__, "journal": None}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Record) -> str:
        self.journal.note(trial.trial_id, result)
        if self.settings.timed:
            return self._among(result)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _among(self, result: Record) -> str:
        """What becomes of a trial among those that got as far."""
        rung = self.reached.get(result["epoch"], [])
        own = tuple(result[key] for key in keys(self.settings))
        beaten = any(dominates(other, own) for other in rung)
        rung.append(own)
        return str(TrialScheduler.STOP if beaten else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Record) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self.journal.note(trial.trial_id, result)
        state = "complete" if result["epoch"] >= self.settings.epochs else "stopped"
        self.journal.end(trial.trial_id, trial.config, state)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        error = loop.error_line(Path(trial.error_file).read_text())
        self.journal.end(trial.trial_id, trial.config, "failed", error)
