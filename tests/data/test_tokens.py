from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tiny_encoder

from ray_pipeline.data.encoders import tokens
from ray_pipeline.errors import JobError
from ray_pipeline.job.features import ColumnFeatures


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_encoder.saved(tmp_path_factory.mktemp("base"))


def fitted(base, longest=8):
    settings = ColumnFeatures(text="tokens", encoder=base, longest=longest)
    return tokens.fitted("review", settings)


def test_tokens_are_those_of_transformers(base):
    from transformers import AutoTokenizer

    texts, _ = tiny_encoder.reviews(50)
    texts += ["", "tea 東京 tea"]
    expected = AutoTokenizer.from_pretrained(base)(texts, truncation=True, max_length=8)
    found = tokens.encoding(fitted(base))(pa.chunked_array([texts[:20], texts[20:]]))
    assert found.to_pylist() == expected["input_ids"]
    assert max(map(len, found.to_pylist())) == 8


def test_an_absent_text_is_an_empty_one(base):
    encoded = tokens.encoding(fitted(base))
    none, empty = encoded(pa.chunked_array([[None, "  "]])).to_pylist()
    assert none == empty == [2, 3]
    assert encoded(pa.chunked_array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize(
    ("words", "run_tokens", "shapes"),
    [
        ([1, 1, 1, 1], 8, [(4, 3)]),
        ([1, 20, 1, 2, 20], 8, [(3, 4), (2, 22)]),
        ([1, 20, 1, 2, 20], 100, [(5, 22)]),
        ([3] * 70, 8, [(32, 5), (32, 5), (6, 5)]),
        ([], 8, [(0, 2)]),
    ],
)
def test_texts_share_a_run_while_padding_costs_less_than_another(base, words, run_tokens, shapes):
    seen = []

    def run(columns):
        seen.append(columns["review"].shape)
        return (columns["review"] >= 0).sum(1)

    read = tokens.reading(run, [fitted(base, longest=40)], run_tokens)
    texts = np.array(["tea " * count for count in words], dtype=object)
    assert read({"review": texts}).tolist() == [count + 2 for count in words]
    assert seen == shapes


def test_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(JobError, match="cannot be loaded"):
        fitted(str(tmp_path))


def test_tokens_need_an_encoder():
    with pytest.raises(ValueError, match="go together"):
        ColumnFeatures(text="tokens")


def test_the_digest_follows_the_weights(tmp_path):
    base = tiny_encoder.saved(tmp_path / "a")
    before = tokens.digest_of(base)
    assert before == tokens.digest_of(base)
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert tokens.digest_of(base) != before
