"""Questions in others' words than the documents', and the sections that answer them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_pipeline.chat import paraphrases
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.errors import DataError

JOBS = Path(__file__).parents[2] / "jobs"


def passage(section, place, headings):
    return Passage(f"{section} {place}", "a.md", "a.md", section, place, headings, "public", "", "")


PASSAGES = [
    passage("0", 0, "Kitchen"),
    passage("1", 0, "Kitchen › How is tea made?"),
    passage("1", 1, "Kitchen › How is tea made?"),
    passage("2", 0, "Kitchen › How is tea made? › Milk"),
    passage("3", 0, "Kitchen › What’s “cocoa”?"),
]


def asked(tmp_path, *told):
    path = tmp_path / "paraphrases.jsonl"
    path.write_text("\n".join(map(json.dumps, told)))
    return paraphrases.asked(paraphrases.read(str(path)), PASSAGES)


def test_what_stands_below_a_heading_answers(tmp_path):
    made = asked(
        tmp_path,
        {"question": "brewing a cuppa?", "headings": ["How is tea made?"]},
        {"question": "hot chocolate, or milk", "headings": ['What\'s "cocoa"?', "Milk"]},
    )
    assert made.questions == ["brewing a cuppa?", "hot chocolate, or milk"]
    assert made.sections == ["0", "1", "2", "3"]
    assert made.relevance.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert made.right() == {
        "brewing a cuppa?": {"1", "2"}, "hot chocolate, or milk": {"2", "3"},
    }  # fmt: skip


def test_a_heading_that_no_document_has_is_named_with_its_line(tmp_path):
    fine = {"question": "cuppa?", "headings": ["Milk"]}
    with pytest.raises(DataError, match=r"How are teas made(.|\n)*how is tea made") as error:
        asked(tmp_path, fine, {"question": "cuppa?", "headings": ["How are teas made?"]})
    assert error.value.where.endswith("paraphrases.jsonl, line 2")
    with pytest.raises(DataError, match="line 1: headings"):
        asked(tmp_path, {"question": "cuppa?", "headings": []})
    with pytest.raises(DataError, match="holds no question"):
        asked(tmp_path)


def test_those_of_the_support_job_are_many_and_no_titles():
    told = [one for _, one in paraphrases.read(str(JOBS / "support_paraphrases.jsonl"))]
    questions = [one.question for one in told]
    assert len(set(questions)) == len(questions) >= 60
    assert all(one.question not in one.headings for one in told)
