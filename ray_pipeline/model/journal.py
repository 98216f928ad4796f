"""What became of a search's trials, written down as each one ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler
from upath import UPath

from ray_pipeline import files
from ray_pipeline.model import loop

Record = dict[str, Any]
LOSS = "validation_loss"
REDUCTION = 3
"""At each rung, one trial in this many goes on."""


class Journal:
    """Ended trials in a file, so that none is run twice, and the epochs of those under way."""

    def __init__(self, path: UPath, trials: int, progress: Callable[[Record], None]) -> None:
        self.path, self.trials, self.progress = path, trials, progress
        self.ended: list[Record] = json.loads(path.read_text()) if path.exists() else []
        self.histories: dict[str, list[Record]] = {}

    def best(self) -> Record | None:
        """The trial with the lowest validation loss, if any did not fail."""
        usable = [trial for trial in self.ended if trial["state"] != "failed"]
        return min(usable, key=lambda trial: float(trial[LOSS]), default=None)

    def note(self, trial: str, result: Record) -> None:
        """Add an epoch of a trial under way; one that is there already stays as it is."""
        history = self.histories.setdefault(trial, [])
        if result["training_iteration"] <= len(history):
            return
        measures = {name: result[name] for name in ("train_loss", LOSS, "score")}
        seconds = round(result["time_this_iter_s"], 4)
        history.append({"epoch": len(history) + 1, **measures, "seconds": seconds})

    def end(self, trial: str, settings: Record, state: str, error: str | None = None) -> None:
        """Write the trial down as ended, and tell whoever follows the progress."""
        history = self.histories.pop(trial, [])
        top = history[loop.best_epoch(history)] if history else {"score": None, LOSS: None}
        self.ended.append(
            {
                "settings": settings,
                "score": top["score"],
                LOSS: top[LOSS],
                "epochs": len(history),
                "state": state,
                "error": error,
                "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
                "history": history,
            }
        )
        files.write_whole(self.path, json.dumps(self.ended).encode())
        found = self.best()
        event = {"trial": len(self.ended), "trials": self.trials}
        self.progress({**event, "best": found["score"] if found else None})


class Halving(ASHAScheduler):
    """ASHA that keeps a journal.

    A Tune callback would be the place for that, but giving Tune one makes it import MLflow for
    its usage statistics, which takes over a second.
    """

    def __init__(self, journal: Journal, epochs: int) -> None:
        super().__init__(max_t=epochs, grace_period=1, reduction_factor=REDUCTION)
        self.journal = journal

    def __getstate__(self) -> Record:
        # Tune stores its scheduler; the journal and who follows it stay in this process.
        return {**self.__dict__, "journal": None}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Record) -> str:
        self.journal.note(trial.trial_id, result)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Record) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self.journal.note(trial.trial_id, result)
        state = "complete" if result["training_iteration"] >= self._max_t else "stopped"
        self.journal.end(trial.trial_id, trial.config, state)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        error = loop.error_line(Path(trial.error_file).read_text())
        self.journal.end(trial.trial_id, trial.config, "failed", error)
