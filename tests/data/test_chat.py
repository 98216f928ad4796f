from __future__ import annotations

import json

import pyarrow as pa
import pytest
import tiny_language
from pydantic import ValidationError

from ray_pipeline.data import features
from ray_pipeline.data.encoders import chat
from ray_pipeline.data.matrices import PADDING, padded
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Data, Features, Job
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.schema import Column, Schema

PAIRS = Schema(
    columns=(
        Column(name="question", kind="text"),
        Column(name="answer", kind="text", role="label"),
    )
)
CHATS = Schema(columns=(Column(name="messages", kind="text", role="label"),))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_language.saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base):
    return chat.tokenizer_of(base)


def read(base, column, longest=128):
    return Features(columns={column: ColumnFeatures(text="tokens", encoder=base, longest=longest)})


def encoded(base, schema, rows, longest=128):
    column = "messages" if schema is CHATS else "question"
    found = chat.fitted(read(base, column, longest), schema)
    return chat.encoding(found, schema.label.name)(rows)


def spoken(tokenizer, row):
    return tokenizer.decode([token for token in row.as_py() if token != PADDING])


def test_a_pair_is_what_the_template_writes_and_only_the_answer_counts(base, tokenizer):
    questions, answers = tiny_language.asked(30)
    questions[3] = None
    made = encoded(base, PAIRS, pa.table({"question": questions, "answer": answers}))
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        said = json.loads(tiny_language.transcript(question or "", answer))
        expected = tokenizer.apply_chat_template(said)["input_ids"]
        assert made.tokens[place].as_py() == expected
        assert spoken(tokenizer, made.targets[place]) == answer + "<|end|>\n"
        assert made.counts[place] == sum(t != PADDING for t in made.targets[place].as_py())
    assert made.cut == 0


def test_of_a_transcript_all_that_the_assistant_says_counts(base, tokenizer):
    text = tiny_language.transcript(
        "How can I install gcc?", "Run apt.", "And less?", "Run it too."
    )
    made = encoded(base, CHATS, pa.table({"messages": [text]}))
    assert made.tokens[0].as_py() == tokenizer.apply_chat_template(json.loads(text))["input_ids"]
    assert spoken(tokenizer, made.targets[0]) == "Run apt.<|end|>\nRun it too.<|end|>\n"


def test_without_a_template_an_answer_stands_on_the_next_line(tmp_path):
    base = tiny_language.saved(tmp_path, template="")
    made = encoded(base, PAIRS, pa.table({"question": ["Why?"], "answer": ["Because."]}))
    tokenizer = chat.tokenizer_of(base)
    assert tokenizer.decode(made.tokens[0].as_py()) == "Why?\nBecause.<|end|>"
    assert spoken(tokenizer, made.targets[0]) == "Because.<|end|>"
    with pytest.raises(JobError, match="no chat template"):
        encoded(base, CHATS, pa.table({"messages": [tiny_language.transcript("a", "b")]}))


def test_rows_are_cut_and_counted(base):
    questions, answers = tiny_language.asked(5)
    rows = pa.table({"question": questions, "answer": answers})
    whole, cut = encoded(base, PAIRS, rows), encoded(base, PAIRS, rows, longest=30)
    assert cut.cut == sum(len(row) > 30 for row in whole.tokens.to_pylist()) > 0
    assert padded(cut.tokens).shape == padded(cut.targets).shape == (5, 30)
    assert (padded(cut.tokens) == padded(whole.tokens)[:, :30]).all()


@pytest.mark.parametrize("text", ["secret", "[1]", '[{"role": "user", "content": "secret"}]', "{}"])
def test_what_is_no_transcript_is_refused_without_being_repeated(base, text):
    with pytest.raises(DataError, match="no transcript") as raised:
        encoded(base, CHATS, pa.table({"messages": [text]}))
    assert "secret" not in str(raised.value)


def test_a_template_that_changes_what_was_said_is_refused(tmp_path):
    last = "{% for m in messages %}{{ m['content'] if loop.last else '…' }}{% endfor %}"
    base = tiny_language.saved(tmp_path, template=last)
    with pytest.raises(DataError, match="in another way"):
        encoded(base, CHATS, pa.table({"messages": [tiny_language.transcript("a", "b", "c", "d")]}))


def test_a_language_model_reads_one_text(base):
    features.check(read(base, "question"), PAIRS)
    features.check(read(base, "messages"), CHATS)
    more = Schema(columns=(*PAIRS.columns, Column(name="section", kind="category")))
    with pytest.raises(JobError, match="cannot read question, section"):
        features.check(read(base, "question"), more)
    with pytest.raises(JobError, match="cannot read"):
        features.check(read(base, "answer"), PAIRS)


def job(**settings):
    data = {
        "source": "faq.jsonl",
        "label": "answer",
        "columns": {"question": "text", "answer": "text"},
        "features": {"columns": {"question": {"text": "tokens", "encoder": "base"}}},
    }
    return {"name": "support", "data": data, "model": {"name": "language"}, **settings}


def test_texts_are_written_by_language_models_alone():
    assert Job.model_validate(job()).data.written
    with pytest.raises(ValidationError, match="goes together"):
        Job.model_validate(job(model={"name": "encoder"}))
    with pytest.raises(ValidationError, match=r"evaluate\.groups"):
        Job.model_validate(job(evaluate={"groups": ["section"]}))
    with pytest.raises(ValidationError, match="a text cannot be predicted"):
        Data(source="faq.jsonl", label="answer", columns={"answer": "text"})
