"""Finding passages: by words, by vectors, fused, and only those that one may read."""

from __future__ import annotations

import numpy as np
import pytest
from upath import UPath

from ray_pipeline.chat import index, judge, refusals
from ray_pipeline.chat.chunks import Passage, digest_of
from ray_pipeline.chat.retriever import Retriever, fitting
from ray_pipeline.chat.search import Hit, Passages, fused
from ray_pipeline.job.chat import Retrieve

TEXTS = {
    "tea": ("public", "Tea is made with hot water."),
    "coffee": ("public", "Coffee is ground and brewed."),
    "recipe": ("staff", "Our secret tea recipe: hot water, milk, and more tea."),
    "milk": ("public", "Milk comes from cows."),
}


def passage(name, group, text):
    return Passage(digest_of(text), f"{name}.txt", f"{name}.txt", name, 0, name, group, text, text)


PASSAGES = [passage(name, *each) for name, each in TEXTS.items()]
VECTORS = dict(zip((p.digest for p in PASSAGES), np.eye(4, dtype=np.float32), strict=True))


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    folder = UPath(tmp_path_factory.mktemp("index") / "lance")
    index.created(folder, PASSAGES, VECTORS)
    return Passages(folder)


def names(hits):
    return [hit.passage.section for hit in hits]


def test_by_words_and_by_vectors(passages):
    assert names(passages.by_words("Which animals give milk?", ["public"], 5)) == ["milk"]
    hits = passages.by_vector([0.0, 0.6, 0.0, 0.8], ["public"], 2)
    assert names(hits) == ["milk", "coffee"]
    assert [hit.score for hit in hits] == pytest.approx([0.8, 0.6])
    assert hits[0].passage == PASSAGES[3]


@pytest.mark.parametrize("question", ["tea recipe", "secret recipe OR tea", "x') OR ('1'='1"])
def test_what_one_may_not_read_is_not_found(passages, question):
    everything = [*passages.by_words(question, ["public"], 5)]
    everything += passages.by_vector([0.0, 0.0, 1.0, 0.0], ["public"], 1)
    assert "recipe" not in names(everything)
    # It takes nobody's place either: the one that is nearest among one's own is found.
    assert len(passages.by_vector([0.0, 0.0, 1.0, 0.0], ["public"], 3)) == 3
    assert "recipe" in names(passages.by_words("secret recipe", ["public", "staff"], 5))
    assert passages.by_words("tea", ["x') OR ('1'='1"], 5) == []


@pytest.mark.parametrize("question", ["", '"', "tea AND (", "-tea", "a:b^2~", "🫖" * 50])
def test_signs_in_a_question_are_no_operators(passages, question):
    assert len(passages.by_words(question, ["public"], 5)) <= 3


def test_ranks_are_fused():
    a, b, c = (Hit(each, 1.0) for each in PASSAGES[:3])
    made = fused([[a, b], [b, c]])
    assert names(made) == ["coffee", "tea", "recipe"]
    assert [hit.score for hit in made] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_the_three_ways(passages):
    def found(by):
        retriever = Retriever(passages, lambda texts: np.eye(4)[[1]], Retrieve(by=by))
        return retriever.found("hot water", ["public"])

    assert names(found("text").hits) == ["tea"]
    assert names(found("vectors").hits)[0] == "coffee"
    both = found("hybrid")
    assert set(names(both.hits)[:2]) == {"tea", "coffee"}
    assert both.confidence == pytest.approx(1)


def test_passages_fit_into_the_budget():
    hits = [Hit(passage(str(n), "public", "word " * 40), 1.0) for n in range(4)]
    assert len(fitting(hits, Retrieve(passages=3, words=500))) == 3
    assert len(fitting(hits, Retrieve(passages=3, words=90))) == 2
    assert len(fitting([Hit(passage("a", "public", "word " * 90), 1.0)], Retrieve(words=50))) == 1


def test_questions_are_answered_by_their_section_and_those_below():
    headings = ["Book", "Book › Why?", "Book › Why? › Because", "Book › What?"]
    made = [p._replace(headings=h) for p, h in zip(PASSAGES, headings, strict=True)]
    questions, sections, relevance = judge.asked(made)
    assert (questions, sections) == (["Why?", "What?"], list(TEXTS))
    assert relevance.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]


def test_a_question_is_answered_where_one_of_its_sections_is_found():
    relevance = np.array([[0, 1, 1, 0], [0, 0, 0, 1.0]])
    scores = np.array([[-1, -2, 0, -9.0], [0, -9, -9, -1]])
    assert judge.as_one(relevance, relevance).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert judge.as_one(scores, relevance).tolist() == [[-1, 0, -9, -9], [0, -9, -9, -1]]


def test_a_threshold_is_judged_on_questions_that_did_not_choose_it():
    known, unknown = ([f"{kind} {n}" for n in range(40)] for kind in ("known", "unknown"))
    sure, unsure = np.linspace(0.5, 0.9, 40), np.linspace(0.1, 0.45, 40)
    told = refusals.refusals(known, sure, unknown, unsure)
    assert 0.45 <= told["threshold"] <= 0.55
    assert told["precision"] > 0.9
    assert told["recall"] == 1
    assert told["answered"] > 0.8
    assert 0 < told["answerable"] < 40
    swapped = refusals.refusals(known, unsure, unknown, sure, threshold=0.47)
    assert (swapped["precision"], swapped["recall"], swapped["answered"]) == (0, 0, 0)
