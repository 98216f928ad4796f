"""From votes to labels: the label model, and what it says of each function.

Votes are counted by pattern: rows on which all functions said the same are alike to every label
model, and there are few patterns however many rows. M functions, K classes, P patterns.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_pipeline.errors import DataError, JobError

Pattern = tuple[str | None, ...]
MOST_ROWS = 20_000
"""Rows that Dawid-Skene is fitted on; of more, as many patterns in the same proportions."""


@dataclass(frozen=True)
class Model:
    """`chances[pattern]` are the probabilities [K] of `classes` for rows with these votes."""

    classes: tuple[str, ...]
    chances: dict[Pattern, NDArray[np.float64]]

    def label(self, pattern: Pattern) -> tuple[str | None, float]:
        """The likeliest class and its probability; None where no function voted.

        Of equally likely classes, the first in the order of their names.
        """
        if pattern not in self.chances:
            return None, 0.0
        best = int(self.chances[pattern].argmax())
        return self.classes[best], float(self.chances[pattern][best])

    def decided(self, pattern: Pattern) -> str | None:
        """The likeliest class; None where nobody voted, or two are equally likely."""
        label, chance = self.label(pattern)
        tied = label is not None and np.isclose(self.chances[pattern], chance).sum() > 1
        return None if tied else label

    def dumped(self) -> str:
        """The model as JSON, which `loaded` reads."""
        chances = [[pattern, found.tolist()] for pattern, found in self.chances.items()]
        return json.dumps({"classes": self.classes, "chances": chances})


def loaded(text: str) -> Model:
    """The model that `Model.dumped` wrote."""
    kept = json.loads(text)
    chances = {tuple(pattern): np.array(found) for pattern, found in kept["chances"]}
    return Model(tuple(kept["classes"]), chances)


def fitted(counts: Counter[Pattern], method: Literal["majority", "dawid-skene"]) -> Model:
    """The label model for the votes counted by pattern.

    `dawid-skene` is the EM of Dawid & Skene (1979), by crowd-kit: each function's confusion matrix
    and the classes' shares are estimated from agreement alone. A function that ever votes for one
    class would seem to say so whatever the class is: it teaches the model nothing, and with such
    rules alone all rows end in the commonest class.

    Raises:
        DataError: no function voted, all for one class, or for `dawid-skene` one of them.
        JobError: crowd-kit is not installed.
    """
    classes = {vote for pattern in counts for vote in pattern if vote is not None}
    if len(classes) < 2:
        raise DataError(
            f"the functions vote for {len(classes)} classes",
            where="label.functions",
            expected="votes for two classes or more",
        )
    if method == "dawid-skene":
        _check_informative(counts)
    return modelled(counts, method, where="label.combine")


def modelled(
    counts: Counter[Pattern], method: Literal["majority", "dawid-skene"], where: str
) -> Model:
    """The label model of whoever voted, functions or annotators, as `fitted` describes it.

    Raises JobError, which names the setting `where`, if crowd-kit is missing.
    """
    voted = Counter({pattern: rows for pattern, rows in counts.items() if any(pattern)})
    classes = tuple(sorted({vote for pattern in voted for vote in pattern if vote is not None}))
    if method == "majority" or len(classes) < 2:
        return Model(classes, {pattern: _shares(pattern, classes) for pattern in voted})
    return Model(classes, _posteriors(voted, classes, where))


def _check_informative(counts: Counter[Pattern]) -> None:
    for index, own in enumerate(zip(*filter(any, counts), strict=True)):
        if len({vote for vote in own if vote is not None}) == 1:
            raise DataError(
                f"function {index + 1} votes for one class only",
                where="label.combine: dawid-skene",
                expected="functions that vote for two classes or more",
                hint="set `combine: majority`, or join rules to a function of your own",
            )


def figures(counts: Counter[Pattern], names: tuple[str, ...], model: Model) -> list[dict[str, Any]]:
    """Of each function: coverage, overlap, conflict (shares of all rows), estimated accuracy.

    As in Ratner et al. (2017), "Snorkel": overlap is where another function votes too, conflict
    where another votes otherwise. The estimated accuracy is the mean probability, under the label
    model, of what the function voted for.
    """
    total, found = sum(counts.values()), []
    for index, name in enumerate(names):
        votes = overlap = conflict = 0
        right = 0.0
        for pattern, rows in counts.items():
            vote = pattern[index]
            if vote is None:
                continue
            others = [other for place, other in enumerate(pattern) if place != index and other]
            votes += rows
            overlap += rows * bool(others)
            conflict += rows * any(other != vote for other in others)
            right += rows * float(model.chances[pattern][model.classes.index(vote)])
        found.append(
            {
                "function": name,
                "coverage": votes / total,
                "overlap": overlap / total,
                "conflict": conflict / total,
                "estimated_accuracy": right / votes if votes else None,
            }
        )
    return found


def _shares(pattern: Pattern, classes: tuple[str, ...]) -> NDArray[np.float64]:
    given = [vote for vote in pattern if vote is not None]
    return np.array([given.count(name) / len(given) for name in classes])


def _posteriors(
    voted: Counter[Pattern], classes: tuple[str, ...], where: str
) -> dict[Pattern, NDArray[np.float64]]:
    """P(class | pattern) ∝ P(class) Π P(vote | class), each function by its confusion matrix."""
    try:
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise JobError(
            "crowd-kit is not installed",
            where=f"{where}: dawid-skene",
            hint="pip install 'ray-pipeline[label]', or choose `majority`",
        ) from error
    model: Any = DawidSkene(n_iter=100).fit(_answers(voted))
    priors = model.priors_.reindex(classes).fillna(0).to_numpy()
    errors = model.errors_  # by (function, vote), a column for each true class
    found = {}
    for pattern in voted:
        chances = priors.copy()
        for function, vote in enumerate(pattern):
            if vote is not None and (function, vote) in errors.index:
                chances *= errors.loc[(function, vote)].reindex(classes).fillna(0).to_numpy()
        total = chances.sum()
        found[pattern] = chances / total if total > 0 else _shares(pattern, classes)
    return found


def _answers(voted: Counter[Pattern]) -> pd.DataFrame:
    """The votes as crowd-kit reads them: a line for each vote in each row."""
    share = min(1.0, MOST_ROWS / sum(voted.values()))
    lines: list[tuple[int, int, str]] = []
    row = 0
    for pattern, rows in voted.items():
        for _ in range(max(1, round(rows * share))):
            lines += [(row, function, vote) for function, vote in enumerate(pattern) if vote]
            row += 1
    return pd.DataFrame(lines, columns=["task", "worker", "label"])
