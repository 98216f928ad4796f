"""What somebody wants who says something: a question answered, a greeting returned, a person.

A multinomial logistic regression on the encoder's vectors of the job's examples: what is said is
near in meaning to what others said who wanted the same. How well that goes is measured in
cross-validation, each example by a regression that did not see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ray_pipeline.chat import lines
from ray_pipeline.chat.retriever import Embed
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job.base import Settings
from ray_pipeline.job.chat import Intents, RouteName
from ray_pipeline.model.metrics import Floats, percentiles, resampled_means

FILE = "intents.json"
FOLDS = 5
_SHOWN = 30
_STRENGTH = 10.0
"""Inverse of the penalty: vectors of length 1 need larger weights than 1 allows."""


class Utterance(Settings):
    """One line of the file."""

    text: str = Field(min_length=1, max_length=4000)
    intent: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")


class Fitted(Settings):
    """The regression: the intents' names, weights [I, W] and biases [I]."""

    intents: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]

    def probabilities(self, vectors: Any) -> Floats:
        """Those of each intent, [N, I], for texts of these vectors [N, W]."""
        scores = np.asarray(vectors) @ np.array(self.weights).T + np.array(self.biases)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        made: Floats = powers / powers.sum(1, keepdims=True)
        return made


class Routed(NamedTuple):
    """The most probable intent, what becomes of it, and what is said where it is not answered."""

    intent: str | None = None
    route: RouteName = "answer"
    say: str = ""


Router = Callable[[str], Routed]
"""From what somebody says to where it leads."""


class Judged(NamedTuple):
    """Figures of intents, and what the report shows of them."""

    metrics: dict[str, Any]
    finding: dict[str, Any]


def read(settings: Intents | None) -> list[Utterance]:
    """The examples in the job's file.

    Raises:
        DataError: it cannot be read, and in which line, an example stands twice, or an intent has
            too few.
        JobError: a route is for an intent without examples.
    """
    if settings is None:
        return []
    found: dict[str, Utterance] = {}
    for where, one in lines.records(settings.examples, Utterance):
        if one.text.lower() in found:
            raise DataError(f"{one.text!r} stands twice", where=where, hint="keep one")
        found[one.text.lower()] = one
    counts = Counter(one.intent for one in found.values())
    for intent in settings.routes:
        if intent not in counts:
            raise JobError(
                f"no example has the intent {intent}",
                where=f"chat.intents.routes.{intent}",
                expected=f"one of {', '.join(sorted(counts))}",
            )
    few = [intent for intent, count in counts.items() if count < FOLDS]
    if few or len(counts) < 2:
        raise DataError(
            f"too few examples of {', '.join(few)}" if few else "all examples have one intent",
            where=settings.examples,
            expected=f"two intents or more, with {FOLDS} examples or more each",
        )
    return list(found.values())


def fitted(told: Sequence[Utterance], vectors: Any) -> Fitted:
    """The regression on all examples and their vectors [N, W]."""
    model = _regression().fit(vectors, [one.intent for one in told])
    weights, biases = model.coef_, model.intercept_
    if len(weights) == 1:  # of two intents the second's alone are told: the first's are 0
        weights = np.concatenate([np.zeros_like(weights), weights])
        biases = np.array([0.0, *biases])
    return Fitted(
        intents=tuple(model.classes_.tolist()),
        weights=tuple(map(tuple, weights.tolist())),
        biases=tuple(biases.tolist()),
    )


def routed(model: Fitted, settings: Intents, vectors: Any) -> list[Routed]:
    """What becomes of texts of these vectors [N, W]: what is not surely another's is answered."""
    return [
        _routed(model.intents[int(row.argmax())], float(row.max()), settings)
        for row in model.probabilities(vectors)
    ]


def router(model: Fitted | None, settings: Intents | None, embed: Embed) -> Router | None:
    """What tells where a text leads; None where the job has no intents."""
    if model is None or settings is None:
        return None
    return lambda text: routed(model, settings, embed([text]))[0]


def _routed(intent: str, probability: float, settings: Intents) -> Routed:
    route = settings.routes.get(intent)
    if route is None or probability < settings.sure:
        return Routed(intent)
    return Routed(intent, route.to, route.say)


def judged(
    told: Sequence[Utterance], vectors: Any, settings: Intents, questions: Any, resamples: int
) -> Judged:
    """How well intents are told from one another.

    Args:
        vectors: of the examples, [N, W].
        questions: vectors [Q, W] of questions that the documents answer.

    Returns:
        Of the metrics `accuracy`, with its 95 % bootstrap `interval`, is the share of examples
        whose intent is told; `routed` the share that goes where its intent is to go, an answer
        below the threshold; `diverted` the share of the questions that would not be answered.
    """
    names = np.array([one.intent for one in told])
    taken, chances = _crossed(names, vectors)
    right = (taken == names).astype(float)
    wanted = [_routed(name, 1.0, settings).route for name in names]
    went = [
        _routed(name, float(chance), settings).route
        for name, chance in zip(taken, chances, strict=True)
    ]
    metrics: dict[str, Any] = {
        "examples": len(told),
        "accuracy": float(right.mean()),
        "routed": float(np.mean([a == b for a, b in zip(wanted, went, strict=True)])),
    }
    if resamples:
        means = resampled_means(right[:, None], resamples, np.random.default_rng(0))
        metrics["interval"] = list(percentiles(means[:, 0]))
    if len(questions):
        others = routed(fitted(told, vectors), settings, questions)
        metrics["diverted"] = float(np.mean([one.route != "answer" for one in others]))
    rows = [
        [name, wanted[int(own.argmax())], int(own.sum()), f"{right[own].mean():.2f}"]
        for name in np.unique(names).tolist()
        if (own := names == name).any()
    ]
    wrong = [
        [one.text, one.intent, str(name), route]
        for one, name, route in zip(told, taken, went, strict=True)
        if one.intent != name
    ]
    return Judged(metrics, _finding(metrics, rows, wrong))


def _crossed(names: NDArray[np.str_], vectors: Any) -> tuple[NDArray[np.str_], Floats]:
    """What each example is taken for, [N], and how probable that is, [N], in cross-validation."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    chances = cross_val_predict(
        _regression(), vectors, names, cv=folds, method="predict_proba", n_jobs=1
    )
    return np.unique(names)[chances.argmax(1)], chances.max(1)


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=_STRENGTH, max_iter=1000)


def _finding(
    metrics: dict[str, Any], rows: list[list[Any]], wrong: list[list[str]]
) -> dict[str, Any]:
    tables: list[dict[str, Any]] = [
        {"columns": ["intent", "goes to", "examples", "told rightly"], "rows": rows}
    ]
    if wrong:
        columns = ["example", "intent", "taken for", "went to"]
        caption = "What was taken for something else"
        tables.append({"caption": caption, "columns": columns, "rows": wrong[:_SHOWN]})
    diverted = metrics.get("diverted")
    return {
        "title": "Intents",
        "note": f"{metrics['accuracy']:.0%} of the examples are told rightly, and "
        f"{metrics['routed']:.0%} go where they are to go, each judged by a regression that did "
        "not see it."
        + ("" if diverted is None else f" Of questions with an answer {diverted:.1%} get none."),
        "tables": tables,
        "place": "judged",
    }
