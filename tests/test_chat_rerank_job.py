"""One job, from documents to a bundle that answers by a reranker."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_cross
import tiny_encoder

from ray_pipeline import bundle, jobfile, pipeline
from ray_pipeline.chat import rerank
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.retriever import Retriever
from ray_pipeline.errors import JobError

JOB = """
name: shelf
storage: storage
data: {source: pages}
chat:
  encoder: base
  retrieve: {by: vectors, rerank: {model: cross, candidates: 30}}
  judge: {confidence: 0.0, answers: 2, paraphrases: paraphrases.jsonl}
evaluate: {bootstrap: 200, gates: {gain.vectors.recall_at_1: {min: 0.3}}}
"""
WORDS = [f"word{n}" for n in range(24)]
COUNT = 40


class Quiet:
    def __getattr__(self, name: str):
        return lambda *arguments, **settings: None


def asked(texts, seed):
    """Four of the six words of each text."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(text, 4, replace=False)) for text in texts]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.choice(WORDS, 6, replace=False) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts):
    made = tmp_path_factory.mktemp("shelf")
    tiny_encoder.saved(made / "base", WORDS)
    tiny_cross.saved(made / "cross", WORDS)
    (made / "pages").mkdir()
    questions, reworded = asked(texts, 1), asked(texts, 2)
    for number, (question, text) in enumerate(zip(questions, texts, strict=True)):
        page = f"# Book\n\n## {question}?\n\n{' '.join(text)}\n"
        (made / "pages" / f"{number}.md").write_text(page)
    told = [
        {"question": other, "headings": [f"{question}?"]}
        for question, other in zip(questions[:5], reworded, strict=False)
    ]
    (made / "paraphrases.jsonl").write_text("\n".join(map(json.dumps, told)))
    (made / "chat.yaml").write_text(JOB)
    return made


def run(folder):
    return pipeline.run(jobfile.read(folder / "chat.yaml", []), Quiet(), until="export")


@pytest.fixture(scope="module")
def ran(folder, ray_cluster):
    return run(folder)


def test_what_it_brings_is_judged(ran):
    metrics = ran["metrics"]
    assert metrics["about"]["rows"] == COUNT
    assert metrics["recall_at_1"] == metrics["reranked"]["recall_at_1"] >= 0.95
    gain = metrics["gain"]["vectors"]
    before, after = metrics["vectors"]["recall_at_1"], metrics["recall_at_1"]
    assert gain["recall_at_1"] == pytest.approx(after - before)
    low, high = gain["intervals"]["recall_at_1"]
    assert 0.15 < low <= gain["recall_at_1"] <= high
    assert set(metrics["gain"]) == {"hybrid", "bm25", "fragments", "vectors"}
    worded = metrics["paraphrases"]
    assert worded["mrr"] == worded["reranked"]["mrr"] > worded["vectors"]["mrr"]
    assert metrics["answers"]["questions"] == 2
    judged = next(stage["record"] for stage in ran["stages"] if stage["name"] == "judge")
    shown = next(one for one in judged["findings"] if one["title"] == "What is found")
    assert [row[0] for row in shown["tables"][0]["rows"]] == [
        "reranked", "hybrid", "bm25", "fragments", "vectors",
    ]  # fmt: skip


def test_another_reranker_is_judged_anew(ran, folder):
    def stages(record):
        return {stage["name"]: stage["cached"] for stage in record["stages"]}

    assert stages(run(folder)) == {"index": True, "judge": True, "export": True}
    weights = folder / "cross" / "model.safetensors"
    before = weights.read_bytes()
    tiny_cross.saved(folder / "cross", WORDS[::-1])
    again = run(folder)
    assert weights.read_bytes() == before  # only its tokenizer is another
    assert stages(again) == {"index": True, "judge": False, "export": False}
    assert again["bundle"] != ran["bundle"]


def test_what_is_none_is_refused_before_any_stage(ran, folder):
    job = jobfile.read(folder / "chat.yaml", ["chat.retrieve.rerank.model=base", "name=other"])
    with pytest.raises(JobError, match="is no cross-encoder") as error:
        pipeline.run(job, Quiet(), until="export")
    assert error.value.where == rerank.WHERE
    assert not (folder / "storage/other/stages").exists()


def test_the_bundle_answers_by_it_alone(ran, folder, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("base", "cross", "pages"):
        (folder / name).rename(tmp_path / name)
    opened = bundle.opened(ran["bundle"])
    for name in ("chat.json", "reranker.json", "encoder.json", "README.md", "manifest.json"):
        assert str(folder) not in (opened.path / name).read_text()
    assert "reranked by cross" in (opened.path / "README.md").read_text()

    def right(bot):
        first = [next(bot.pieces(q, {"public"})).hits[0].passage for q in asked(texts, 3)]
        return sum(one.document == f"{number}.md" for number, one in enumerate(first))

    assert right(Bot(opened)) >= 0.9 * COUNT
    monkeypatch.setattr(Retriever, "reranked", lambda self, question, ranked: ranked)
    assert right(Bot(opened)) < 0.6 * COUNT
