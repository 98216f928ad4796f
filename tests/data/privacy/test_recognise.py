"""Precision and recall of what is found, on a labelled sample of made-up people and numbers."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data.privacy import recognise
from ray_pipeline.errors import JobError

SAMPLE = Path(__file__).with_name("labelled.jsonl")
_MARK = re.compile(r"\[([A-Z_]+)\|([^\]]*)\]")


def labelled():
    """Text, the spans of its entities, and the name of its column, if it is a column's value."""
    for line in SAMPLE.read_text().splitlines():
        entry = json.loads(line)
        text, spans, at = "", [], 0
        for mark in _MARK.finditer(entry["text"]):
            text += entry["text"][at : mark.start()]
            spans.append((mark[1], len(text), len(text) + len(mark[2])))
            text, at = text + mark[2], mark.end()
        yield text + entry["text"][at:], spans, entry.get("column", "")


@pytest.fixture(scope="module")
def score():
    """Precision and recall by entity; a find counts where it overlaps one of its kind."""
    right, wrong, missed = Counter(), Counter(), Counter()
    for text, spans, column in labelled():
        wanted = list(spans)
        for found in recognise.spans([text], column=column)[0]:
            hits = [w for w in wanted if w[0] == found.entity and w[1] < found.end > 0]
            hits = [w for w in hits if found.start < w[2]]
            (right if hits else wrong)[found.entity] += 1
            if hits:
                wanted.remove(hits[0])
        missed.update(entity for entity, _, _ in wanted)
    return {
        entity: (
            right[entity] / (right[entity] + wrong[entity]),
            right[entity] / (right[entity] + missed[entity]),
        )
        for entity in recognise.ENTITIES
    }


def test_the_sample_is_large_and_has_some_of_everything_and_of_nothing():
    entries = list(labelled())
    counts = Counter(span[0] for _, spans, _ in entries for span in spans)
    assert len(entries) >= 200
    assert all(counts[entity] >= 8 for entity in recognise.ENTITIES)
    assert sum(not spans for _, spans, _ in entries) >= 50


BOUNDS = dict.fromkeys(recognise.ENTITIES, (0.95, 0.95)) | {
    "PERSON": (0.8, 0.9),  # a small model, and German texts among the English ones
    "PHONE": (0.9, 0.95),
}


@pytest.mark.parametrize("entity", recognise.ENTITIES)
def test_precision_and_recall(score, entity):
    precision, recall = score[entity]
    assert precision >= BOUNDS[entity][0]
    assert recall >= BOUNDS[entity][1]


def test_nothing_is_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network is used")

    recognise._recognisers.cache_clear()
    recognise._ner.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = recognise.spans(["Ann Miller, ann@example.co.uk, 07700 900461"])[0]
    assert {span.entity for span in found} == {"PERSON", "EMAIL", "PHONE"}


def test_masked_texts_name_what_stood_there_and_keep_the_rest():
    text = "Mail ann@example.com or pay 4111 1111 1111 1111 today."
    assert recognise.masked([text], ["EMAIL", "CARD"]) == ["Mail <EMAIL> or pay <CARD> today."]
    assert recognise.masked([text], ["CARD"]) == ["Mail ann@example.com or pay <CARD> today."]


def test_a_number_with_a_wrong_check_digit_is_no_card():
    assert recognise.masked(["card 4111 1111 1111 1112"], ["CARD"]) == ["card 4111 1111 1111 1112"]


@given(st.text(max_size=80), st.sampled_from(["", "name", "phone", "address"]))
def test_spans_are_in_order_inside_the_text_and_apart(text, column):
    wanted = ["EMAIL", "CARD", "IP", "ADDRESS", "PHONE"]
    found = recognise.spans([text], wanted, column)[0]
    ends = [0, *(end for _, _, end, _ in found)]
    for span, before in zip(found, ends, strict=False):
        assert before <= span.start < span.end <= len(text)
        assert span.entity in wanted


@given(
    st.lists(st.sampled_from(["ann@example.com", "203.0.113.9", "4111111111111111"]), max_size=4),
    st.text(st.characters(categories=["Lu", "Ll", "Zs"]), max_size=20),
)
def test_a_planted_value_never_survives_masking(planted, filling):
    text = f" {filling} ".join(["", *planted, ""])
    masked = recognise.masked([text], ["EMAIL", "IP", "CARD"])[0]
    assert not any(value in masked for value in planted)


def test_without_presidio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"ray-pipeline\[privacy\]"):
        recognise.check_installed()
