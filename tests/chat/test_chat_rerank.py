"""A cross-encoder reads the first passages together with the question, and puts them in order."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny_cross
import tiny_encoder
import torch
from upath import UPath

from ray_pipeline import cli
from ray_pipeline.chat import lance, rerank
from ray_pipeline.chat.chunks import Passage, digest_of
from ray_pipeline.chat.corrections import DOCUMENT
from ray_pipeline.chat.lance import LancePassages
from ray_pipeline.chat.retriever import Retriever
from ray_pipeline.errors import JobError
from ray_pipeline.job.chat import Rerank, Retrieve

WORDS = ("tea", "milk", "hot", "water", "cows", "coffee", "beans", "cup", "secret", "spoon")
QUESTION = "hot tea with milk"
TEXTS = ["cows milk", "", "hot tea hot tea milk", "coffee beans " * 60, "tea " * 100, "cup"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def cross(models):
    return tiny_cross.saved(models / "cross", WORDS)


def by_transformers(base, question, texts, longest):
    """Each pair alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base).eval()
    found = []
    for text in texts:
        cut = {"truncation": "only_second", "max_length": longest, "return_tensors": "pt"}
        inputs = tokenizer([question], [text], **cut)
        assert inputs["input_ids"].shape[1] <= longest
        with torch.no_grad():
            found.append(model(**inputs).logits.item())
    return found


def scored(base, question, texts):
    return rerank.scoring(Retrieve(rerank=Rerank(model=base)))(question, texts)


@pytest.mark.parametrize("question", [QUESTION, "", "tea"])
def test_scores_are_those_of_transformers(cross, question):
    made = scored(cross, question, TEXTS)
    assert made == pytest.approx(by_transformers(cross, question, TEXTS, 64), abs=1e-4)
    if question == QUESTION:
        assert np.argsort(-made, kind="stable")[:3].tolist() == [4, 2, 0]
    assert scored(cross, question, []).shape == (0,)


def test_a_family_that_knows_no_types_is_not_told_any(models, cross):
    base = tiny_cross.saved(models / "untyped", WORDS, typed=False)
    expected = by_transformers(base, QUESTION, TEXTS, 64)
    assert scored(base, QUESTION, TEXTS) == pytest.approx(expected, abs=1e-4)
    assert np.abs(scored(cross, QUESTION, TEXTS) - expected).max() > 0.1


def test_the_passage_is_cut_and_of_a_question_never_the_beginning(cross):
    pairs = rerank.pairing(rerank.fitted(Rerank(model=cross)).model_copy(update={"longest": 13}))
    tea, milk, cup = (4 + WORDS.index(word) for word in ("tea", "milk", "cup"))
    assert pairs("tea", ["milk " * 20])["tokens"] == [[2, tea, 3, *[milk] * 9, 3]]
    told = pairs("cup " + "tea " * 20, ["milk " * 20, "milk", ""])
    asked = [2, cup, *[tea] * 4, 3]
    assert told["tokens"] == [[*asked, *[milk] * 5, 3], [*asked, milk, 3], [*asked, 3]]
    assert told["types"] == [[0] * 7 + [1] * 6, [0] * 7 + [1] * 2, [0] * 7 + [1]]


def passage(number, text, group="public", document="a.md", headings=""):
    searched = f"{headings}\n{text}"
    return Passage(
        digest_of(searched), document, document, f"{document} {number}", 0, headings, group, text,
        searched,
    )  # fmt: skip


PASSAGES = [
    passage(0, "cows and beans"),
    passage(1, "hot water"),
    passage(2, "hot tea with milk", "staff"),
    passage(3, "tea with milk"),
    passage(4, "hot tea with milk and hot water"),
    passage(5, "cup", document=DOCUMENT, headings="hot tea with milk"),
]


def ask(question):
    """The nearer, the earlier a passage is."""
    made = np.arange(6, 0, -1, dtype=np.float32)
    return made[None] / np.linalg.norm(made)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = UPath(tmp_path_factory.mktemp("index") / "lance")
    vectors = zip((one.digest for one in PASSAGES), np.eye(6, dtype=np.float32), strict=True)
    lance.created(folder, PASSAGES, dict(vectors))
    return LancePassages(folder)


def retriever(searched, cross, **settings):
    told = Retrieve(by="vectors", rerank=Rerank(model=cross, **settings))
    return Retriever(searched, ask, told, rerank.scoring(told))


def numbers(searched, ranked):
    return [int(hit.passage.section.split()[-1]) for hit in searched.read(ranked)]


def test_the_first_are_in_the_order_of_their_scores(searched, cross):
    found = retriever(searched, cross, candidates=4).found(QUESTION, ["public", "staff"])
    assert numbers(searched, found.ranked) == [2, 3, 1, 0, 4, 5]
    texts = [PASSAGES[number].searched for number in (2, 3, 1, 0)]
    scores = [one.score for one in found.ranked[:4]]
    assert scores == pytest.approx(by_transformers(cross, QUESTION, texts, 64), abs=1e-4)
    # How sure it is that there is an answer is told as before.
    assert found.confidence == pytest.approx(ask("")[0].max())
    many = retriever(searched, cross).found("hot water", ["public", "staff"])
    assert numbers(searched, many.ranked)[0] == 1


def test_what_one_may_not_read_is_not_read_by_it_either(searched, cross):
    read = []
    told = Retrieve(by="vectors", rerank=Rerank(model=cross))
    score = rerank.scoring(told)

    def seen(question, texts):
        read.extend(texts)
        return score(question, texts)

    found = Retriever(searched, ask, told, seen).found(QUESTION, ["public"])
    assert 2 not in numbers(searched, found.ranked)
    assert len(read) == 5
    assert PASSAGES[2].searched not in read


def test_a_correction_is_the_answer_whatever_it_scores(searched, cross):
    finds = retriever(searched, cross)
    for question, sections in (("Hot tea, with milk?", [5]), ("hot cows", [1])):
        found = finds.found(question, ["public"])
        kept = [int(hit.passage.section.split()[-1]) for hit in finds.kept(question, found)]
        assert kept[: len(sections)] == sections
        assert (len(kept) == 1) == (sections == [5])


def wrong(models):
    """Folders of models that are none, by what is wrong with them."""
    cross = models / "cross"
    encoder, bare, empty = models / "encoder", models / "bare", models / "empty"
    tiny_encoder.saved(encoder)
    shutil.copytree(cross, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    empty.mkdir()
    return {
        "has 3 outputs": tiny_cross.saved(models / "outputs", WORDS, outputs=3),
        "lacks the weights `classifier.bias`": str(encoder),
        "has no tokenizer": str(bare),
        "cannot be loaded": str(empty),
    }


def test_what_is_no_cross_encoder_is_refused(models, cross, capsys):
    (models / "pages").mkdir()
    (models / "pages" / "tea.md").write_text("# Tea\n\nHot tea.\n")
    job = models / "chat.yaml"
    for fault, base in wrong(models).items():
        with pytest.raises(JobError, match=fault) as error:
            rerank.check(Retrieve(rerank=Rerank(model=base)))
        assert error.value.where == rerank.WHERE
    job.write_text(
        "name: tea\nstorage: storage\ndata: {source: pages}\n"
        "chat: {encoder: encoder, retrieve: {rerank: {model: outputs}}}\n"
    )
    assert cli.main(["validate", str(job)]) == 2
    assert f"{rerank.WHERE}: `{models}/outputs` is no cross" in capsys.readouterr().err
    assert cli.main(["validate", str(job), "--set", "chat.retrieve.rerank.model=cross"]) == 0
