"""Disturbed rows, and a network's numbers moved by its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judged_rows import CLASSES, SCHEMA, rows, sample, statistics
from torch import Tensor, nn

from ray_pipeline.job import Robustness
from ray_pipeline.model import attack, disturb, robustness
from ray_pipeline.model.predictions import answering
from ray_pipeline.model.sample import Sample


class Linear(nn.Module):
    """Logits that are linear in age, and do not read anything else."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        yes = 2 * numbers[:, :1]
        return torch.cat([-yes, yes], 1) if self.outputs == 2 else yes


class Steps(nn.Module):
    """What no gradient reaches, as trees."""

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        yes = (numbers[:, :1] > 0).float()
        return torch.cat([1 - yes, yes], 1)


def attacked(network: nn.Module, regression: bool = False) -> tuple[Sample, Any]:
    known = statistics(regression)
    table = rows()
    age = table["age"].to_pandas().fillna(0).to_numpy(dtype=float)
    labels = 40 * age / 10 if regression else (age > 0).astype(np.int64)
    label = pa.array(labels) if regression else pa.array(np.array(CLASSES)[labels])
    tried = Sample(table.append_column("label", label), labels, answering(network, known))
    return tried, attack.attacking(network, known, tried, Robustness())


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
@pytest.mark.parametrize("size", [0.05, 0.3])
def test_of_a_linear_network_the_worst_is_known(kind: str, size: float) -> None:
    tried, attacking = attacked(Linear())
    age = tried.rows["age"].to_pandas().fillna(0).to_numpy(dtype=float) / 10
    worst = age - size * np.where(tried.labels == 1, 1, -1)
    expected = 1 / (1 + np.exp(-4 * worst))
    found = attacking(kind, size)[:, 1]
    if kind == "fgsm":
        assert found == pytest.approx(expected, abs=1e-5)
    else:  # from a random start, 2.5 times the reach brings nearly all to the edge
        assert found == pytest.approx(expected, abs=0.01)


def test_more_room_never_helps_and_pgd_is_never_milder_than_fgsm() -> None:
    class Bumpy(Linear):
        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            yes = (30 * numbers[:, :1]).sin() + numbers[:, :1]
            return torch.cat([-yes, yes], 1)

    tried, attacking = attacked(Bumpy())
    own = np.arange(len(tried.labels)), tried.labels
    whole = tried.answers(tried.rows)[own]
    for size in (0.02, 0.1, 0.5):
        harsh, mild = attacking("pgd", size)[own], attacking("fgsm", size)[own]
        assert (harsh <= mild + 1e-6).all()
        assert (harsh <= whole + 1e-6).all()


def test_values_are_attacked_by_their_squared_error() -> None:
    tried, attacking = attacked(Linear(outputs=1), regression=True)
    exact = tried.answers(tried.rows)
    moved = attacking("pgd", 0.1)
    assert exact == pytest.approx(tried.labels, abs=1e-3)  # no error yet, so no gradient
    assert 0 < abs(moved - exact).max() <= 2 * 20 * 0.1 + 1e-4


def test_nothing_but_scaled_numbers_moves_and_no_further_than_allowed() -> None:
    seen: list[np.ndarray] = []

    class Spy(Linear):
        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            seen.append(numbers.detach().numpy().copy())
            return super().forward(numbers, categories)

    tried, attacking = attacked(Spy())
    tried.answers(tried.rows)
    whole = seen[-1]
    attacking("pgd", 0.1)
    assert abs(seen[-1] - whole).max() <= 0.1 + 1e-6
    assert (seen[-1][:, 2:] == whole[:, 2:]).all()  # the flag of a missing age
    assert whole[:, 2].any()


def test_trees_have_no_gradient_to_follow() -> None:
    assert attacked(Steps())[1] is None


def test_noise_is_of_the_asked_size_and_keeps_kinds_and_gaps() -> None:
    table = rows(4000)
    moved = disturb.noisy(table, SCHEMA, 0.3, np.random.default_rng(0))
    assert moved.schema == table.schema
    assert moved["age"].is_null().equals(table["age"].is_null())
    change = moved["income"].to_numpy() - table["income"].to_numpy()
    assert change.std() == pytest.approx(3, rel=0.05)
    assert moved["town"].equals(table["town"])


def test_swapped_categories_are_others_own() -> None:
    table = rows(4000)
    moved = disturb.swapped(table, SCHEMA, 0.3, np.random.default_rng(0))
    changed = np.array(moved["town"].to_pylist()) != np.array(table["town"].to_pylist())
    assert changed.mean() == pytest.approx(0.3 * 2 * (1 / 3) * (2 / 3), abs=0.03)
    assert set(moved["town"].to_pylist()) == {"Ulm", "Bonn"}
    assert moved["age"].equals(table["age"])


@given(st.lists(st.text() | st.none(), min_size=1, max_size=5), st.floats(0, 1))
def test_misspelt_texts_keep_their_words_and_nearly_their_letters(texts: Any, size: float) -> None:
    table = pa.table({"said": pa.array(texts, pa.string())})
    schema = SCHEMA.model_copy(update={"columns": (SCHEMA["said"],)})
    found = disturb.misspelt(table, schema, size, np.random.default_rng(0))["said"].to_pylist()
    for before, after in zip(texts, found, strict=True):
        if before is None:
            assert after is None
            continue
        old, new = before.split(" "), after.split(" ")
        assert len(old) <= len(new) + before.count(" ")
        assert abs(len(after) - len(before)) <= len(old)
        if size == 0:
            assert after == before


def test_letters_change_in_every_word_that_has_two() -> None:
    table = pa.table({"said": ["tea and coffee"]})
    schema = SCHEMA.model_copy(update={"columns": (SCHEMA["said"],)})
    (text,) = disturb.misspelt(table, schema, 0.9999, np.random.default_rng(3))["said"].to_pylist()
    assert len(text.split(" ")) == 3
    assert text != "tea and coffee"
    upper = disturb.cased(table, schema, upper=True)["said"].to_pylist()
    assert upper == ["TEA AND COFFEE"]


def test_scores_and_drops_by_disturbance_and_size() -> None:
    tried = sample(2000, noise=0)
    settings = Robustness(gradient=(), noise=(0.0, 1.0), swaps=(0.0, 0.5))
    found = robustness.results(tried, SCHEMA, settings, None)
    assert found["score"] == 1
    assert found["noise"]["0"] == {"score": 1, "drop": 0, "low": 0, "high": 0}
    hard = found["noise"]["1"]
    assert hard["score"] == pytest.approx(1 - hard["drop"])
    assert 0.05 < hard["low"] < hard["drop"] < hard["high"] < 0.5
    assert found["swaps"]["0.5"]["drop"] > 0
    assert found["upper"]["1"]["drop"] == 0
    assert "fgsm" not in found
    (section,) = robustness.findings(found, "accuracy")
    assert len(section["tables"][0]["rows"]) == 2 + 2 + 2 + 2
    assert [plot["x"] for plot in section["plots"]] == ["standard deviations", "share of values"]
    assert section["plots"][0]["lines"]["noise"][0] == [0.0, 1.0]
