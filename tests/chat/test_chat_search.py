"""Finding passages: by words, by vectors, fused, and only those that one may read."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ray_pipeline.chat import judge, lance, refusals, scored, weights
from ray_pipeline.chat.chunks import Passage, digest_of
from ray_pipeline.chat.lance import LancePassages
from ray_pipeline.chat.retriever import Retriever, fitting
from ray_pipeline.chat.search import Hit, Ranked, fused, weighed
from ray_pipeline.chat.words import fragments
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
    lance.created(folder, PASSAGES, VECTORS)
    return LancePassages(folder)


def names(passages, ranked):
    return [hit.passage.section for hit in passages.read(ranked)]


def test_by_words_and_by_vectors(passages):
    assert names(passages, passages.by_words("Which animals give milk?", ["public"], 5)) == ["milk"]
    hits = passages.read(passages.by_vector([0.0, 0.6, 0.0, 0.8], ["public"], 2))
    assert [hit.passage for hit in hits] == [PASSAGES[3], PASSAGES[1]]
    assert [hit.score for hit in hits] == pytest.approx([0.8, 0.6])
    assert passages.read([]) == []


def test_an_index_of_before_is_read(tmp_path):
    columns = {name: [getattr(p, name) for p in PASSAGES] for name in Passage._fields}
    vectors = [VECTORS[p.digest].tolist() for p in PASSAGES]
    vector = pa.array(vectors, pa.list_(pa.float32(), 4))
    rows = pa.table(columns).append_column("vector", vector)
    lancedb.connect(str(tmp_path)).create_table(lance.TABLE, rows)
    before = LancePassages(UPath(tmp_path))
    assert before.everything() == PASSAGES
    assert [hit.passage for hit in before.read([Ranked(2, 1.0), Ranked(0, 0.5)])] == [
        PASSAGES[2],
        PASSAGES[0],
    ]
    assert [told.tolist() for _, told in before.vectors()] == vectors


@pytest.mark.parametrize("question", ["tea recipe", "secret recipe OR tea", "x') OR ('1'='1"])
def test_what_one_may_not_read_is_not_found(passages, question):
    everything = [*passages.by_words(question, ["public"], 5)]
    everything += passages.by_vector([0.0, 0.0, 1.0, 0.0], ["public"], 1)
    assert "recipe" not in names(passages, everything)
    # It takes nobody's place either: the one that is nearest among one's own is found.
    assert len(passages.by_vector([0.0, 0.0, 1.0, 0.0], ["public"], 3)) == 3
    assert "recipe" in names(passages, passages.by_words("secret recipe", ["public", "staff"], 5))
    assert passages.by_words("tea", ["x') OR ('1'='1"], 5) == []


@pytest.mark.parametrize("question", ["", '"', "tea AND (", "-tea", "a:b^2~", "🫖" * 50])
def test_signs_in_a_question_are_no_operators(passages, question):
    assert len(passages.by_words(question, ["public"], 5)) <= 3


def rows(ranked):
    return [one.row for one in ranked]


def test_ranks_are_fused():
    a, b, c = (Ranked(row, 1.0) for row in range(3))
    made = fused([[a, b], [b, c]])
    assert rows(made) == [1, 0, 2]
    assert [one.score for one in made] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    # Of equal ones the first in their documents' order is first.
    assert rows(fused([[c], [a], [b]])) == [0, 1, 2]


def test_scores_are_weighed():
    meaning = [Ranked(0, 0.9), Ranked(1, 0.7), Ranked(2, 0.5)]
    words = [Ranked(2, 30.0), Ranked(1, 10.0)]
    made = weighed(meaning, words, 0.4)
    assert rows(made) == [0, 2, 1]
    assert [one.score for one in made] == pytest.approx([0.6, 0.4, 0.3])
    assert rows(weighed(meaning, words, 0.0)) == [0, 1, 2]
    assert rows(weighed(meaning, [], 0.4)) == [0, 1, 2]
    assert rows(weighed([Ranked(0, 0.2)], [Ranked(1, 2.0)], 0.4)) == [0, 1]


def test_words_that_are_like_each_other_have_pieces_in_common(passages):
    assert fragments("Is it a Package?") == "_pac pack acka ckag kage age_"
    assert fragments("upgrade i").split()[0] in fragments("upgrading").split()
    assert passages.by_words("coffeepots", ["public"], 5) == []
    assert names(passages, passages.by_fragments("coffeepots", ["public"], 5)) == ["coffee"]
    assert "recipe" not in names(passages, passages.by_fragments("secretly recipes", ["public"], 5))


def test_a_weight_is_chosen_by_other_questions():
    questions = [f"question {n}" for n in range(40)]
    relevance = np.zeros((40, 10))
    relevance[:, 0] = 1
    good, bad = np.zeros((40, 10)), np.tile(np.arange(10.0), (40, 1))
    scores = [bad for _ in weights.WEIGHTS]
    scores[3] = good
    made = weights.chosen(scores, relevance, questions)
    assert made.weight == weights.WEIGHTS[3]
    assert made.each == [weights.WEIGHTS[3]] * 40
    # What is best on one fold alone is not what that fold is judged by.
    own = np.array([weights._fold(question) == 0 for question in questions])
    scores = [np.where(own[:, None], bad, good), np.where(own[:, None], good, bad)]
    each = np.array(weights.chosen(scores, relevance, questions).each)
    assert (each[own] == weights.WEIGHTS[0]).all()
    few = weights.chosen(scores, relevance[:5], questions[:5])
    assert (few.weight, few.each) == (weights.WEIGHTS[0], [weights.WEIGHTS[0]] * 5)


def test_the_three_ways(passages):
    def found(by, **settings):
        retriever = Retriever(passages, lambda texts: np.eye(4)[[1]], Retrieve(by=by, **settings))
        return retriever.found("hot water", ["public"])

    def first(*asked, **settings):
        return names(passages, found(*asked, **settings).ranked)

    assert first("text") == ["tea"]
    assert first("vectors")[0] == "coffee"
    both = found("hybrid")
    assert set(names(passages, both.ranked)[:2]) == {"tea", "coffee"}
    assert first("hybrid", weight=0.9)[0] == "tea"
    assert first("hybrid", weight=0.1)[0] == "coffee"
    assert found("hybrid", fuse="ranks").ranked[0].score < 0.04
    assert both.confidence == pytest.approx(1)


def test_only_the_passages_that_an_answer_is_made_from_are_kept(passages):
    retriever = Retriever(passages, lambda texts: np.eye(4)[[1]], Retrieve(passages=2))
    found = retriever.found("hot water", ["public"])
    assert len(found.ranked) == 3
    assert [hit.passage.section for hit in retriever.kept("hot water", found)] == names(
        passages, found.ranked[:2]
    )


def test_passages_fit_into_the_budget():
    hits = [Hit(passage(str(n), "public", "word " * 40), 1.0) for n in range(4)]
    assert fitting(hits, Retrieve(words=500)) == hits
    assert fitting(hits, Retrieve(words=90)) == hits[:2]
    assert len(fitting([Hit(passage("a", "public", "word " * 90), 1.0)], Retrieve(words=50))) == 1


def test_questions_are_answered_by_their_section_and_those_below():
    headings = ["Book", "Book › Why?", "Book › Why? › Because", "Book › What?"]
    made = [p._replace(headings=h) for p, h in zip(PASSAGES, headings, strict=True)]
    questions, sections, relevance = judge.titled(made)
    assert (questions, sections) == (["Why?", "What?"], list(TEXTS))
    assert relevance.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]


def test_a_question_is_answered_where_one_of_its_sections_is_found():
    relevance = np.array([[0, 1, 1, 0], [0, 0, 0, 1.0]])
    scores = np.array([[-1, -2, 0, -9.0], [0, -9, -9, -1]])
    assert scored.as_one(relevance, relevance).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert scored.as_one(scores, relevance).tolist() == [[-1, 0, -9, -9], [0, -9, -9, -1]]


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


@pytest.fixture(scope="module", params=[True, False], ids=["parts", "one part"])
def many(tmp_path_factory, request):
    """Vectors around 400 topics, at some distance from them, the passages in an index of them, and
    the recall that it has at the least. One passage in a hundred is for the staff alone."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((400, 96))
    made = topics[rng.integers(0, 400, 12_000)] + 0.5 * rng.standard_normal((12_000, 96))
    vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    told = [
        passage(str(n), "public" if n % 100 else "staff", f"text {n}") for n in range(len(vectors))
    ]
    folder = UPath(tmp_path_factory.mktemp("many") / "lance")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance, "INDEXED", len(told) if request.param else len(told) + 1)
        table = lance.created(
            folder, told, dict(zip((p.digest for p in told), vectors, strict=True))
        )
    assert "IvfFlat" in [one.index_type for one in table.list_indices()]
    return LancePassages(folder), vectors, 0.95 if request.param else 1


@pytest.mark.parametrize("groups", [["public", "staff"], ["public"], ["staff"]])
def test_an_index_finds_what_comparing_all_vectors_finds(many, groups):
    passages, vectors, least = many
    staff = np.arange(len(vectors)) % 100 == 0
    mine = np.flatnonzero({"public": ~staff, "staff": staff}.get("".join(groups), staff | ~staff))
    asked = np.random.default_rng(1).choice(len(vectors), 40, replace=False)
    shares = []
    for vector in vectors[asked]:
        nearness = vectors[mine] @ vector
        nearest = mine[np.argsort(-nearness, kind="stable")[:50]]
        found = passages.by_vector(vector.tolist(), groups, 50)
        assert len(found) == 50
        assert set(rows(found)) <= set(mine.tolist())
        assert found[0].score == pytest.approx(nearness.max(), abs=0.02)
        shares.append(len(set(rows(found)) & set(nearest.tolist())) / 50)
    assert np.mean(shares) >= least
