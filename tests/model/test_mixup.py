"""Rows made of two, and smoothed labels, against losses worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from prepared_rows import statistics
from torch import nn

from ray_pipeline.data.statistics import ImageStatistics, LabelStatistics, Statistics
from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import losses, mixup
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.inputs import Inputs

CLASSES = statistics()
ORDER, SHARE = torch.tensor([1, 2, 0]), torch.tensor([0.75, 0.5, 1.0])


def of_label(**settings: object) -> Statistics:
    return CLASSES.model_copy(update={"label": LabelStatistics(name="y", **settings)})


def batch(label: torch.Tensor, weight: torch.Tensor | None = None) -> Rows:
    return Rows({"numbers": torch.tensor([[0.0, 4.0], [2.0, 8.0], [6.0, -4.0]])}, label, weight)


class Line(nn.Linear):
    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return super().forward(numbers)


def test_a_row_is_its_share_of_itself_and_the_rest_of_another():
    found = mixup.pairwise(batch(torch.tensor([0, 1, 0])), ORDER, SHARE)
    wanted = [[0.75 * 0 + 0.25 * 2, 0.75 * 4 + 0.25 * 8], [4.0, 2.0], [6.0, -4.0]]
    assert found.inputs["numbers"].tolist() == wanted
    assert found.mixed.label.tolist() == [1, 0, 0]


def test_pixels_stay_whole_numbers():
    images = torch.tensor([0, 255, 100], dtype=torch.uint8).view(3, 1, 1, 1)
    rows = Rows({"image": images}, torch.tensor([0, 1, 0]))
    found = mixup.pairwise(rows, ORDER, SHARE).inputs["image"]
    assert found.dtype == torch.uint8
    assert found.flatten().tolist() == [64, 178, 100]  # 63.75, 177.5 to even


def test_the_loss_is_that_of_both_labels_by_their_shares():
    logits = [[1.0, -1.0], [0.0, 2.0], [0.5, 0.5]]
    found = losses.training_loss(
        torch.tensor(logits), mixup.pairwise(batch(torch.tensor([0, 1, 0])), ORDER, SHARE), CLASSES
    )

    def log_loss(row: int, label: int) -> float:
        return -math.log(math.exp(logits[row][label]) / sum(map(math.exp, logits[row])))

    by_hand = (
        0.75 * log_loss(0, 0)
        + 0.25 * log_loss(0, 1)
        + 0.5 * log_loss(1, 1)
        + 0.5 * log_loss(1, 0)
        + log_loss(2, 0)
    ) / 3
    assert float(found) == pytest.approx(by_hand, rel=1e-6)


def test_weights_go_with_their_labels():
    """share · w · loss + (1 - share) · w' · loss', row by row."""
    logits = torch.tensor([[1.0, -1.0], [0.0, 2.0], [0.5, 0.5]])
    label, weight = torch.tensor([0, 1, 0]), torch.tensor([1.0, 4.0, 0.0])
    found = losses.training_loss(
        logits, mixup.pairwise(batch(label, weight), ORDER, SHARE), CLASSES
    )
    own = losses.row_losses(logits, label, CLASSES)
    other = losses.row_losses(logits, label[ORDER], CLASSES)
    by_hand = (SHARE * weight * own + (1 - SHARE) * weight[ORDER] * other).mean()
    assert float(found) == pytest.approx(float(by_hand), rel=1e-6)


def test_values_are_mixed_as_their_squared_errors_are():
    values = of_label(classes=None, mean=10.0, deviation=2.0)
    label = torch.tensor([10.0, 14.0, 8.0])  # standardised 0, 2, -1
    logits = torch.tensor([[1.0], [1.0], [0.0]])
    found = losses.training_loss(logits, mixup.pairwise(batch(label), ORDER, SHARE), values)
    assert float(found) == pytest.approx((0.75 * 1 + 0.25 * 1 + 0.5 * 1 + 0.5 * 4 + 1.0) / 3)


def test_parts_of_a_mixed_batch_sum_to_its_loss():
    rows = mixup.pairwise(batch(torch.tensor([0, 1, 0])), ORDER, SHARE)
    network = Line(2, 2)
    whole = losses.part_loss(rows, CLASSES)(network, rows)
    each = losses.part_loss(rows, CLASSES)
    summed = sum(float(each(network, part).detach()) for part in losses.parts(rows, 2))
    assert summed == pytest.approx(float(whole.detach()), rel=1e-6)


def test_a_smoothed_label_leaves_a_share_to_all_classes():
    logits = [[1.0, -1.0], [0.0, 2.0]]
    found = losses.row_losses(
        torch.tensor(logits), torch.tensor([0, 1]), CLASSES, smoothing=0.1
    ).tolist()
    for row, label in ((0, 0), (1, 1)):
        total = math.log(sum(map(math.exp, logits[row])))
        chances = {label: 0.95, 1 - label: 0.05}
        by_hand = sum(share * (total - logits[row][k]) for k, share in chances.items())
        assert found[row] == pytest.approx(by_hand, rel=1e-6)


def test_several_labels_are_a_question_each_and_weighed_in_training_alone():
    several = of_label(classes=("a", "b"), separator="|", weights=(3.0, 1.0))
    logits, label = torch.tensor([[0.5, -2.0]]), torch.tensor([[1, 0]], dtype=torch.uint8)
    a, b = math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-2.0))
    assert float(losses.loss_of(logits, label, several)) == pytest.approx((a + b) / 2)
    trained = losses.training_loss(logits, Rows({}, label), several)
    assert float(trained) == pytest.approx((3 * a + b) / 2)
    smoothed = losses.training_loss(logits, Rows({}, label), several, smoothing=0.2)
    other_a, other_b = math.log(1 + math.exp(0.5)), math.log(1 + math.exp(2.0))
    by_hand = (3 * 0.9 * a + 0.1 * other_a + 0.1 * other_b + 0.9 * b) / 2
    assert float(smoothed) == pytest.approx(by_hand)


def test_shares_are_drawn_from_a_beta_distribution():
    torch.manual_seed(0)
    rows = Rows({"numbers": torch.zeros(20_000, 1)}, torch.zeros(20_000, dtype=torch.int64))
    assert mixup.mixed(rows, 0.0) is rows
    share = mixup.mixed(rows, 0.3).mixed.share
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.03)


@pytest.mark.parametrize(
    ("train", "model", "inputs", "task", "where"),
    [
        ({"mixup": 0.2}, "mlp", {"categories": (3, 4)}, "classification", "train.mixup"),
        ({"mixup": 0.2}, "trees", {}, "classification", "train.mixup"),
        ({"smoothing": 0.1}, "trees", {}, "classification", "train.smoothing"),
        ({"smoothing": 0.1}, "mlp", {}, "regression", "train.smoothing"),
    ],
)
def test_what_has_no_middle_is_not_mixed(train, model, inputs, task, where):
    settings = Inputs(numbers=3, outputs=2, **{"categories": (), **inputs})
    with pytest.raises(JobError) as raised:
        mixup.check(Train(**train), Model(name=model), settings, task)
    assert raised.value.where == where


def test_images_may_be_mixed():
    image = ImageStatistics(
        name="p", missing=0, height=2, width=2, channels=1, mean=(0.0,), deviation=(1.0,)
    )
    inputs = Inputs(numbers=0, categories=(), outputs=2, image=image)
    asked = (Train(mixup=0.2), Model(name="cnn"))
    mixup.check(*asked, inputs, "classification")
    with pytest.raises(JobError, match="1 columns are read as categories"):
        mixup.check(*asked, inputs.model_copy(update={"categories": (3,)}), "classification")
