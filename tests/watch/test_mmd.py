"""The distance between two samples of vectors, and how often chance makes it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from ray_pipeline.watch import mmd


def drawn(rng, count, shift=0.0):
    """Vectors of 5 numbers, some of which are heavy in their tails."""
    found = rng.standard_t(3, (count, 5))
    found[:, 0] += shift
    return found.astype(np.float32)


def by_formula(usual, seen):
    """The unbiased estimate of MMD², with the median distance of all as the kernel's width."""
    whole = mmd.whitened(np.concatenate([usual, seen]))
    usual, seen = whole[: len(usual)], whole[len(usual) :]
    width = np.median(pdist(np.concatenate([usual, seen])))

    def kernel(a, b):
        return np.exp(-(cdist(a, b) ** 2) / (2 * width**2))

    within = [
        (kernel(one, one).sum() - len(one)) / (len(one) * (len(one) - 1)) for one in (usual, seen)
    ]
    return sum(within) - 2 * kernel(usual, seen).mean()


def test_the_size_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    usual, seen = drawn(rng, 120), drawn(rng, 80, 1.5)
    found = mmd.apart(usual, seen, 99)
    assert found.size**2 == pytest.approx(by_formula(usual, seen), rel=1e-4)
    assert found.p == 0.01, "none of 99 divisions is as far apart"
    assert mmd.apart(usual, usual.copy(), 99).size == 0.0, "the estimate is below 0"


def test_the_chance_is_that_of_scipys_divisions():
    rng = np.random.default_rng(1)
    usual, seen = drawn(rng, 20), drawn(rng, 30, 0.2)
    whole = np.concatenate([usual, seen])
    truth = stats.permutation_test(
        (np.arange(20), np.arange(20, 50)),
        lambda a, b: by_formula(*(whole[places] for places in (a, b))),
        n_resamples=1500,
        alternative="greater",
        rng=rng,
    )
    assert 0.02 < truth.pvalue < 0.6, "else there is little to compare"
    assert mmd.apart(usual, seen, 5000).p == pytest.approx(truth.pvalue, abs=0.02)


def test_chances_without_a_difference_are_as_rare_as_they_say():
    """Also where the samples are of different sizes."""
    rng, looks = np.random.default_rng(2), 300
    chances = [mmd.apart(drawn(rng, 60), drawn(rng, 25), 199).p for _ in range(looks)]
    for share in (0.05, 0.2, 0.5):
        often = sum(p <= share for p in chances)
        low, high = stats.binom.ppf([0.001, 0.999], looks, share)
        assert low <= often <= high, share


def test_it_grows_with_the_share_of_rows_from_elsewhere():
    rng = np.random.default_rng(3)
    usual = drawn(rng, 500)
    sizes = []
    for share in (0.25, 0.5, 1.0):
        others = int(share * 500)
        seen = np.concatenate([drawn(rng, 500 - others), drawn(rng, others, 3.0)])
        sizes.append(mmd.apart(usual, seen, 9).size / share)
    assert max(sizes) < 1.35 * min(sizes)


def test_rows_that_are_all_the_same_are_not_apart():
    same = np.zeros((30, 4), np.float32)
    assert mmd.apart(same, same, 99) == (0.0, 1.0)
    assert mmd.apart(same, same + 1, 99).p == 0.01


def test_no_direction_outweighs_the_others():
    """A shift in a direction of little variance is seen beside one of much."""
    rng = np.random.default_rng(4)

    def rows(shift):
        return np.stack([rng.normal(0, 5, 200), rng.normal(shift, 1, 200)], 1).astype(np.float32)

    assert mmd.apart(rows(0), rows(0.8), 99).p == 0.01
    whole = mmd.whitened(rows(0))
    np.testing.assert_allclose(np.cov(whole.T), np.eye(2), atol=0.25)


def test_rounding_in_a_direction_that_does_not_vary_is_not_blown_up():
    rng = np.random.default_rng(5)
    rows = rng.normal(0, 1, (400, 8)).astype(np.float32)
    rows[:, 7] = 1e-3 * rng.normal(0, 1, 400)
    assert mmd.whitened(rows)[:, 7].std() < 0.1
