"""What people want, told from examples, and where it leads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from langchain_core.runnables import RunnableGenerator
from pydantic import ValidationError

from ray_pipeline.chat import answer, intents
from ray_pipeline.chat.answer import Asked, Piece, Sentence
from ray_pipeline.chat.intents import Utterance
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job.chat import Intents, Route

JOBS = Path(__file__).parents[2] / "jobs"
ROUTES = {
    "greeting": Route(to="reply", say="Hello!"),
    "vague": Route(to="clarify", say="What is it about?"),
    "person": Route(to="hand_over", say="A person will read this."),
}
NAMES = ["question", *ROUTES]


def made_up(spread, each=20):
    """Examples of four intents, and vectors around four corners, as far as `spread` from them."""
    told = [Utterance(text=f"{name} {n}", intent=name) for name in NAMES for n in range(each)]
    corners = np.repeat(np.eye(4, 16), each, axis=0)
    vectors = corners + np.random.default_rng(0).normal(0, spread, corners.shape)
    return told, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SETTINGS = Intents(examples="unused", routes=ROUTES)


def test_probabilities_are_those_of_the_regression():
    for count in (2, 4):
        told, vectors = made_up(0.4)
        told, vectors = told[: 20 * count], vectors[: 20 * count]
        model = intents.fitted(told, vectors)
        own = intents._regression().fit(vectors, [one.intent for one in told])
        assert model.intents == tuple(own.classes_)
        assert model.probabilities(vectors) == pytest.approx(own.predict_proba(vectors), abs=1e-6)
        again = intents.Fitted.model_validate_json(model.model_dump_json())
        assert (again.probabilities(vectors) == model.probabilities(vectors)).all()


def test_what_is_not_surely_something_else_is_answered():
    told, vectors = made_up(0.05)
    model = intents.fitted(told, vectors)
    went = intents.routed(model, SETTINGS, np.eye(4, 16))
    assert [(one.intent, one.route, one.say) for one in went] == [
        ("question", "answer", ""),
        ("greeting", "reply", "Hello!"),
        ("vague", "clarify", "What is it about?"),
        ("person", "hand_over", "A person will read this."),
    ]
    between = (np.eye(4, 16)[1] + np.eye(4, 16)[2])[None] / 2**0.5
    assert intents.routed(model, SETTINGS, between)[0].route in ("reply", "clarify")
    sure = SETTINGS.model_copy(update={"sure": 0.9})
    assert intents.routed(model, sure, between)[0].route == "answer"


def test_intents_are_judged_by_regressions_that_did_not_see_them():
    told, vectors = made_up(0.05)
    metrics, finding = intents.judged(told, vectors, SETTINGS, vectors[:20], 200)
    assert (metrics["accuracy"], metrics["routed"], metrics["diverted"]) == (1, 1, 0)
    assert finding["tables"][0]["rows"][1] == ["person", "hand_over", 20, "1.00"]
    # Vectors that say nothing of intents are learnt by heart, and no example is told by that.
    noise = np.random.default_rng(1).normal(size=(80, 200))
    metrics, finding = intents.judged(told, noise, SETTINGS, noise[40:60], 200)
    assert metrics["accuracy"] < 0.5
    low, high = metrics["interval"]
    assert low <= metrics["accuracy"] <= high < 0.6
    assert metrics["diverted"] == 1
    assert finding["tables"][1]["columns"][2] == "taken for"


def read(tmp_path, told, routes=ROUTES):
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "intent": name}) for text, name in told))
    return intents.read(Intents(examples=str(path), routes=routes))


def test_examples_that_cannot_be_used_are_named(tmp_path):
    fine = [(f"{name} {n}", name) for name in NAMES for n in range(5)]
    assert len(read(tmp_path, fine)) == 20
    assert intents.read(None) == []
    with pytest.raises(DataError, match="too few examples of person"):
        read(tmp_path, fine[:-1])
    with pytest.raises(DataError, match="line 21: 'GREETING 1' stands twice"):
        read(tmp_path, [*fine, ("GREETING 1", "vague")])
    with pytest.raises(DataError, match="all examples have one intent"):
        read(tmp_path, fine[5:10], {"greeting": ROUTES["greeting"]})
    with pytest.raises(JobError, match="no example has the intent thanks"):
        read(tmp_path, fine, {"thanks": ROUTES["greeting"]})
    with pytest.raises(DataError, match="line 1: intent"):
        read(tmp_path, [("Hello", "no name")])


@pytest.mark.parametrize("wrong", [{"to": "answer", "say": "x"}, {"to": "clarify"}, {"to": "run"}])
def test_a_route_says_something_or_answers(wrong):
    with pytest.raises(ValidationError):
        Route(**wrong)


def quoted(told):
    for _ in told:
        yield Piece(sentence=Sentence("42.", 0), by="extractive")


def said(question, before=()):
    """What is said by a chatbot that knows four sentences and answers `42.`"""
    model = intents.fitted(*made_up(0.05))
    corners = {"what is tea": 0, "hello": 1, "why": 2, "a person please": 3}
    router = intents.router(
        model, SETTINGS, lambda texts: np.eye(4, 16)[[corners[text] for text in texts]]
    )
    chain = answer.behind(router, RunnableGenerator(quoted))
    first, second = chain.stream(Asked(question, (), before))
    return first.routed.intent, first.routed.route, second.sentence.text, second.by


def test_an_answer_is_for_those_who_want_one():
    assert said("what is tea") == ("question", "answer", "42.", "extractive")
    assert said("hello") == ("greeting", "reply", "Hello!", "reply")
    assert said("a person please") == ("person", "hand_over", "A person will read this.", "reply")
    assert said("why") == ("vague", "clarify", "What is it about?", "reply")
    # What is vague by itself is clear after a question, and a greeting is one after it, too.
    assert said("why", ["what is tea"]) == ("vague", "answer", "42.", "extractive")
    assert said("hello", ["what is tea"])[1] == "reply"


def test_those_of_the_support_job_are_many():
    told = intents.read(Intents(examples=str(JOBS / "support_intents.jsonl"), routes=ROUTES))
    assert len(told) >= 120
    assert len({one.intent for one in told}) >= 5
