"""Population based training: poor trials go on from the weights of good ones.

Jaderberg et al. (2017), https://arxiv.org/abs/1711.09846, by Ray Tune's scheduler in its
synchronous form (their appendix A.1): after each interval all wait for the last one, so that a
search with the same seed ends with the same weights however fast its trials were.
"""
# ruff: noqa: S311 - what is drawn is no secret

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator
from upath import UPath

from ray_pipeline import files
from ray_pipeline.job import CHANGEABLE, Range, Tune
from ray_pipeline.model import loop
from ray_pipeline.model.journal import Journal
from ray_pipeline.model.objectives import LOSS
from ray_pipeline.model.search import search
from ray_pipeline.model.space import Space

Record = dict[str, Any]
STATES = "states"
"""The folder of the members' states, in the search's `work`."""


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler, which keeps a journal, and a file from which an interrupted search goes
    on: the members' settings, states and epochs after the last exchange.

    A member's weights are in a state that its configuration names (`trial.Member`): an exchange is
    another name, and no checkpoint of Tune's has to be awaited.
    """

    def __init__(self, journal: Journal, settings: Tune, space: Space, work: UPath) -> None:
        self.journal, self.settings, self.work = journal, settings, work
        changing = {key: space.dimensions[key] for key in CHANGEABLE if key in space.dimensions}
        mutations = {key: _mutation(range_) for key, range_ in changing.items()}
        super().__init__(
            time_attr="epoch",
            metric=LOSS,
            mode="min",
            perturbation_interval=settings.interval,
            hyperparam_mutations={"member": {"settings": mutations}},
            custom_explore_fn=partial(_inside, ranges=changing),
            log_config=False,
            synch=True,
        )
        self.changing = tuple(changing)
        begun = _begun(settings, space, work)
        self.epoch, self.members = begun["epoch"], begun["members"]
        self.exchanges: list[Record] = begun["exchanges"]
        self._next_perturbation_sync = self.epoch + settings.interval
        self.error: str | None = None
        """What a member failed of: the search ends with it, since the others would wait for it."""
        self.places: dict[str, int] = {}
        """Each member's place, by its trial."""

    def __getstate__(self) -> Record:
        # Tune stores its scheduler; the journal and who follows it stay in this process.
        return {**self.__dict__, "journal": None}

    @property
    def configurations(self) -> list[Record]:
        """What each member begins with."""
        return [{key: member[key] for key in ("settings", "state")} for member in self.members]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        place = self.places[trial.trial_id] = len(self.places)
        self.journal.histories[trial.trial_id] = list(self.members[place]["history"])
        self._trial_state[trial].last_perturbation_time = self.epoch
        self._trial_state[trial].last_train_time = self.epoch
        # All members wait at once; Tune would end the processes of those that it does not expect.
        tune_controller._actor_cache.increase_max(trial.placement_group_factory)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Record) -> str:
        self._note(trial, result)
        awaited = self._next_perturbation_sync
        with _drawing_from(f"{self.settings.seed} {result['epoch']}"):
            decision = str(super().on_trial_result(tune_controller, trial, result))
        if self._next_perturbation_sync > awaited:
            self._exchanged(tune_controller.get_trials(), result["epoch"])
        return decision

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        """Have a poor member take over a good one's state, epochs and settings, those changed."""
        if trial not in lower_quantile:
            return
        donor = random.choice(upper_quantile)
        config, _ = self._get_new_config(trial, donor)
        own, other = (self.places[each.trial_id] for each in (trial, donor))
        taken = {**self.members[other], "settings": config["member"]["settings"]}
        self.members[own] = taken
        self.journal.histories[trial.trial_id] = list(self.journal.histories[donor.trial_id])
        epoch = len(self.journal.histories[trial.trial_id])
        told = {key: taken["settings"][key] for key in self.changing}
        self.exchanges.append({"epoch": epoch, "member": own, "from": other, "settings": told})

    def _exchanged(self, trials: Sequence[Any], epoch: int) -> None:
        """Hand the members' configurations out, and write down how things stand."""
        self.epoch = epoch
        for trial in trials:
            place = self.places[trial.trial_id]
            self.members[place]["history"] = self.journal.histories[trial.trial_id]
            trial.set_config({"member": self.configurations[place]})
        stand = {"epoch": epoch, "members": self.members, "exchanges": self.exchanges}
        files.write_whole(_stand(self.work), json.dumps(stand).encode())
        needed = {member["state"] for member in self.members}
        for state in (self.work / STATES).iterdir():
            if state.name not in needed:
                files.clear(state)
        self.journal.progress({"epoch": epoch, "epochs": self.settings.epochs})

    def _note(self, trial: Any, result: Record) -> None:
        member = self.members[self.places[trial.trial_id]]
        changed = {key: member["settings"][key] for key in self.changing}
        self.journal.note(trial.trial_id, result, settings=changed)
        member["state"] = result["state"] or member["state"]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Record) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._note(trial, result)
        member = self.members[self.places[trial.trial_id]]
        finite = any(epoch[LOSS] < float("inf") for epoch in self.journal.histories[trial.trial_id])
        state = "complete" if finite else "failed"
        error = None if finite else "the loss was never a finite number"
        self.journal.end(trial.trial_id, member["settings"], state, error, weights=member["state"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self.error = loop.error_line(Path(trial.error_file).read_text())


class Queue(BasicVariantGenerator):
    """The members, for Tune to begin with. It is over when all have ended: Tune ends processes at
    hand once nothing can come, and each interval would wait for new ones."""

    def is_finished(self) -> bool:
        return bool(super().is_finished()) and not self._live_trials


def _begun(settings: Tune, space: Space, work: UPath) -> Record:
    """How an interrupted search stands, or the beginning of one: settings drawn at random, after
    those that the space begins with."""
    stand = _stand(work)
    if stand.exists():
        found: Record = json.loads(stand.read_text())
        return found
    drawing = settings.model_copy(update={"algorithm": "random"})
    proposals = search(drawing, space, [])
    drawn = [proposals.suggest(str(number)) for number in range(settings.trials)]
    members: list[Record] = [{"settings": each, "state": None, "history": []} for each in drawn]
    return {"epoch": 0, "members": members, "exchanges": []}


def exchanges(work: UPath) -> list[Record]:
    """Which member took over from which after which epoch, and the settings that it went on with:
    {"epoch", "member", "from", "settings"} each."""
    stand = _stand(work)
    return list(json.loads(stand.read_text())["exchanges"]) if stand.exists() else []


def _stand(work: UPath) -> UPath:
    return work / "population.json"


def _mutation(range_: Range) -> list[Any] | Callable[[], Any]:
    """A dimension as Ray Tune's scheduler takes it: neighbours in a list are tried, other values
    are multiplied by 0.8 or 1.2, or drawn anew by the function."""
    return list(range_.choice) if range_.choice is not None else partial(_drawn, range_)


def _drawn(range_: Range) -> Any:
    if range_.integer is not None:
        return random.randint(*range_.integer)
    if range_.uniform is not None:
        return random.uniform(*range_.uniform)
    assert range_.log_uniform is not None
    low, high = range_.log_uniform
    return float(low * (high / low) ** random.random())


def _inside(config: Record, ranges: dict[str, Range]) -> Record:
    """The configuration with its settings moved to the ends of ranges that they have left."""
    settings = config["member"]["settings"]
    for key, range_ in ranges.items():
        bounds = range_.integer or range_.uniform or range_.log_uniform
        if bounds is not None:
            settings[key] = min(max(settings[key], bounds[0]), bounds[1])
    return config


@contextmanager
def _drawing_from(seed: str) -> Iterator[None]:
    """Python's own generator, which Ray Tune draws from, begins at `seed` inside."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
