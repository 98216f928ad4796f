"""One job, from questions and answers in a file to the folder of a language model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_language
from transformers import AutoModelForCausalLM, AutoTokenizer
from upath import UPath

from ray_pipeline import bundle, jobfile, pipeline
from ray_pipeline.chat import generators
from ray_pipeline.deploy import gguf_check, language_export, release, runtime
from ray_pipeline.errors import BundleError, GateRefused
from ray_pipeline.job import Serve
from ray_pipeline.job.chat import Generate
from ray_pipeline.model import plan

sys.path.append(str(Path(__file__).parents[1] / "jobs"))

JOB = """
name: support
storage: storage
data:
  source: faq.jsonl
  label: answer
  columns: {question: text, answer: text, chapter: {kind: category, role: ignore}}
  split: {by: [question], validation: 0.2, test: 0.2}
  features: {columns: {question: {text: tokens, encoder: base, longest: 64}}}
model: {name: language, lora: {rank: 16}}
train:
  workers: 0
  epochs: 6
  batch_size: 8
  accumulate: 2
  learning_rate: 0.02
  clip: 5
evaluate: {bootstrap: 200, gates: {perplexity_change: {max: 0}, token_accuracy: {min: 0.5}}}
"""


class Quiet:
    def __getattr__(self, name: str):
        return lambda *arguments, **settings: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("support")
    tiny_language.saved(folder / "base")
    questions, answers = tiny_language.asked(160)
    rows = [
        {"question": question, "answer": answer, "chapter": "packages"}
        for question, answer in zip(questions, answers, strict=True)
    ]
    rows[3]["answer"] = None
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.yaml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def ran(folder, ray_cluster):
    return pipeline.run(jobfile.read(folder / "job.yaml", []), Quiet())


def test_it_foretells_answers_better_than_before(ran):
    metrics = ran["metrics"]
    before = metrics["baseline"]["perplexity"]
    low, high = metrics["intervals"]["perplexity_change"]
    assert metrics["perplexity"] < before / 2
    assert low < metrics["perplexity"] - before == metrics["perplexity_change"] < high < 0
    assert metrics["token_accuracy"] > metrics["baseline"]["token_accuracy"]
    stages = {stage["name"]: stage["record"] for stage in ran["stages"]}
    assert stages["clean"]["rows_quarantined"] == 1  # a question without an answer
    assert stages["train"]["strategy"] == "ddp"
    assert stages["features"]["answers"]["rows_cut"] == 0
    page = UPath(ran["report"]).read_text()
    assert "Answers foretold" in page
    assert "token accuracy" in page


def test_no_question_is_on_two_sides(ran, folder):
    split = next((folder / "storage/support/stages").glob("split-*"))
    sides = [set(pq.read_table(split / s)["question"].to_pylist()) for s in ("train", "test")]
    assert not sides[0] & sides[1]


def test_its_bundle_is_a_folder_for_servers_of_language_models(ran):
    opened = bundle.opened(ran["bundle"])
    assert opened.manifest.task == "generation"
    names = set(opened.manifest.files)
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert opened.manifest.parity["rows"] > 10
    folder = opened.path / "model"
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("lora" in name for name in network.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = json.loads(tiny_language.transcript("How can I install gcc, case 3?"))
    tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    said = network.generate(**tokens, max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(said[0, tokens["input_ids"].shape[1] :]).startswith("R")  # Run, Read


def said_for_sure(network, tokenizer, messages):
    """The likeliest answer, and how much likelier each of its tokens is at least than another."""
    read = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    said = network.generate(
        **read, max_new_tokens=16, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    answer = said.sequences[0, read["input_ids"].shape[1] :]
    best = [logits[0].topk(2).values for logits in said.logits]
    margin = min(float(first - second) for first, second in best)
    return tokenizer.decode(answer, skip_special_tokens=True), margin


def test_its_gguf_file_says_in_a_chatbot_what_the_network_says(ran):
    opened = bundle.opened(ran["bundle"])
    told = opened.manifest.parity["gguf"]
    assert told["tokens"] == gguf_check.COMPARED_TOKENS
    assert told["difference"] <= gguf_check.MAX_DIFFERENCE
    assert "llama-server -m model.gguf" in (opened.path / "README.md").read_text()
    network = AutoModelForCausalLM.from_pretrained(opened.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(opened.path / "model")
    settings = Generate(by="llama", model="model.gguf", tokens=16, first_s=60)
    write = generators.llama(generators.Parts(settings, None, opened.path / "model.gguf"))
    compared = 0
    for question in tiny_language.asked(40)[0]:
        asked = json.loads(tiny_language.transcript(question))
        expected, margin = said_for_sure(network, tokenizer, asked)
        if margin > 0.4:  # in 8 bits, choices that are closer may be others
            assert "".join(write(generators.Prompt(question, [], asked))) == expected
            compared += 1
    assert compared > 3


def test_where_no_gguf_file_can_be_made_the_bundle_says_why(ran, folder, monkeypatch):
    monkeypatch.setattr(language_export, "converters", lambda: {"gguf": None, "xllamacpp": "1"})
    again = pipeline.run(jobfile.read(folder / "job.yaml", []), Quiet())
    export = again["stages"][-1]
    assert not export["cached"]  # what is installed is part of what it is made from
    assert export["record"]["headline"].startswith("no model.gguf: gguf not installed: pip install")
    opened = bundle.opened(again["bundle"])
    assert "model.gguf" not in opened.manifest.files
    assert "model/model.safetensors" in opened.manifest.files
    assert "no `model.gguf` for llama.cpp: gguf not" in (opened.path / "README.md").read_text()


def test_it_has_no_endpoint_and_predicts_no_rows(ran):
    assert "endpoint" not in ran
    assert [stage["name"] for stage in ran["stages"]][-1] == "export"
    with pytest.raises(BundleError, match="answers in words"):
        release.deploy(ran["bundle"], "support", Serve())
    with pytest.raises(BundleError, match="answers in words"):
        runtime.Predictor(bundle.opened(ran["bundle"]))


def test_a_gate_refuses_a_model_that_learned_too_little(ran, folder):
    job = jobfile.read(folder / "job.yaml", ["evaluate.gates.perplexity.max=1"])
    with pytest.raises(GateRefused, match="perplexity is"):
        pipeline.run(job, Quiet())


def test_its_training_can_be_planned(ran, folder):
    made = plan.of(jobfile.read(folder / "job.yaml", []))
    assert made is not None
    assert made.shape.frozen > made.shape.trained > 0


def test_questions_of_debians_pages_come_with_their_answers(tmp_path):
    import faq

    page = """<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Chapter 9. Keeping
      current</title></head><body><div class="chapter"><div class="section"><div><h2>9.1.\xa0How can
      I update?</h2></div><p>Run:</p><pre>apt-get  update\napt-get upgrade</pre>
      <div class="section"><div class="titlepage"><h3>9.1.1. apt</h3></div><p>Or\xa0apt.</p></div>
      <div class="section"><div><h3>9.1.2. Which one?</h3></div><p>Any.</p></div></div>
      <div class="section"><div><h2>9.2. Nothing asked</h2></div><p>x</p></div></div>
      </body></html>"""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert faq.written([tmp_path / "page.html"], tmp_path / "faq.jsonl") == 2
    first, second = map(json.loads, (tmp_path / "faq.jsonl").read_text().splitlines())
    assert first == {
        "question": "How can I update?",
        "answer": "Run:\napt-get  update\napt-get upgrade\napt\nOr apt.",
        "chapter": "Keeping current",
    }
    assert (second["question"], second["answer"]) == ("Which one?", "Any.")
