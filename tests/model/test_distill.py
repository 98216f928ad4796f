"""What a student inherits, what its teacher's word counts, and that it learns from it."""

from __future__ import annotations

import json

import pytest
import tiny_encoder
import torch
from prepared_rows import written
from torch import nn
from torch.nn.functional import cross_entropy, softmax
from upath import UPath

from ray_pipeline.data.encoders import tokens
from ray_pipeline.errors import JobError
from ray_pipeline.job import Distill, Model, Train
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.model import distill, train, zoo
from ray_pipeline.model.feed import Rows

TRAINING = Train(epochs=2, batch_size=64, workers=0, learning_rate=0.01, patience=9)


def test_soft_targets_are_those_of_hinton():
    torch.manual_seed(0)
    student = torch.randn(5, 3, requires_grad=True)
    teacher = torch.randn(5, 3)
    found = distill.soft_loss(student, teacher, 3.0)
    targets = softmax(teacher / 3, dim=1)
    entropy = -(targets * targets.log()).sum(1)
    expected = 9 * (cross_entropy(student / 3, targets, reduction="none") - entropy)
    torch.testing.assert_close(found, expected)
    # "this gives gradients of magnitude 1 / T²": those of a hot one are (z - v) / K
    (gradient,) = torch.autograd.grad(distill.soft_loss(student, teacher, 1e3).sum(), student)
    apart = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, apart / 3, atol=2e-3, rtol=0)


def test_of_values_the_squared_difference():
    found = distill.soft_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]]), 2.0)
    assert found.tolist() == [4.0, 0.0]


def test_a_student_of_an_encoder_has_layers_of_the_tuned_one(tmp_path):
    base = tiny_encoder.saved(tmp_path)
    read = tokens.fitted("review", ColumnFeatures(text="tokens", encoder=base, longest=8))
    inputs = zoo.Inputs(numbers=0, categories=(), outputs=2, tokens=read)
    whole = Model(name="encoder")
    teacher, student = (
        zoo.build(model, inputs) for model in (whole, whole.model_copy(update={"layers": 2}))
    )
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(0.1)
    copied = distill.inherit(student, teacher.state_dict())
    assert set(copied) == set(student.state_dict())
    count = len(teacher.backbone.encoder.layer)
    for mine, theirs in ((0, 0), (1, count - 1)):
        found = student.backbone.encoder.layer[mine].state_dict()
        expected = teacher.backbone.encoder.layer[theirs].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


class Stack(nn.Module):
    def __init__(self, layers: int, width: int = 4, outputs: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(layers)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            numbers = block(numbers)
        return self.head(numbers)


@pytest.mark.parametrize(
    ("layers", "taken"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_layers_are_inherited_from_the_first_to_the_last(layers, taken):
    teacher, student = Stack(6), Stack(layers)
    copied = distill.inherit(student, teacher.state_dict())
    assert len(copied) == 4 * layers + 2
    for mine, theirs in enumerate(taken):
        for name, value in student.blocks[mine].state_dict().items():
            torch.testing.assert_close(value, teacher.blocks[theirs].state_dict()[name])
    torch.testing.assert_close(student.head.weight, teacher.head.weight)


def test_what_has_another_shape_stays_fresh():
    teacher, student = Stack(2, width=8), Stack(2, width=4)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert distill.inherit(student, teacher.state_dict()) == ["head.bias"]
    for name in before.keys() - {"head.bias"}:
        torch.testing.assert_close(student.state_dict()[name], before[name])


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_student_learns_from_its_teacher_alone(task, tmp_path):
    """With alpha 1 the labels say nothing: what it knows, it has from the teacher."""
    features = written(UPath(tmp_path / "features"), task=task)
    for name in ("trained", "student", "work", "more"):
        UPath(tmp_path / name).mkdir()
    quiet = {"progress": lambda event: None}
    trained, out = UPath(tmp_path / "trained"), UPath(tmp_path / "student")
    model = Model(width=64, depth=2)
    longer = TRAINING.model_copy(update={"epochs": 6})
    teacher = train.write(features, model, longer, trained, work=UPath(tmp_path / "work"), **quiet)
    settings = Distill(model={"width": 16, "depth": 1}, alpha=1.0, epochs=8)
    record = distill.write(
        trained, features, TRAINING, settings, out=out, work=UPath(tmp_path / "more"), **quiet
    )
    assert record["epochs"] == 8
    assert record["parameters"] < 0.5 * teacher["parameters"]
    assert record["score"] > teacher["score"] - 0.07
    described = json.loads((out / "model.json").read_text())["model"]
    assert (described["width"], described["depth"]) == (16, 1)
    assert isinstance(train.load(out), nn.Module)


def test_a_teacher_counts_rows_by_their_weight(tmp_path, monkeypatch):
    network = nn.Linear(2, 2, bias=False)
    network.forward = lambda numbers: numbers @ network.weight.T
    monkeypatch.setattr(train, "load", lambda folder: network)
    taught = distill.Teacher(UPath(tmp_path), 2.0, 0.25).opened(
        nn.Linear(2, 2), torch.device("cpu")
    )
    numbers, logits = torch.randn(2, 2), torch.randn(2, 2)
    label, loss = torch.zeros(2, dtype=torch.int64), torch.tensor(4.0)
    soft = distill.soft_loss(logits, network(numbers), 2.0)
    rows = Rows({"numbers": numbers}, label, torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(taught(rows, logits, loss), 0.75 * loss + 0.25 * 3 * soft[0] / 2)
    alike = rows._replace(weight=None)
    torch.testing.assert_close(taught(alike, logits, loss), 0.75 * loss + 0.25 * soft.mean())


def test_what_the_last_layers_read_counts_as_well(tmp_path, monkeypatch):
    torch.manual_seed(0)
    teacher, student = Stack(3), Stack(1)
    monkeypatch.setattr(train, "load", lambda folder: teacher)
    told = distill.Teacher(UPath(tmp_path), 2.0, 0.0, hidden=0.5)
    taught = told.opened(student, torch.device("cpu"))
    numbers = torch.randn(6, 4)
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    rows = Rows({"numbers": numbers}, torch.zeros(6, dtype=torch.int64), weight)
    loss = taught(rows, student(numbers), torch.tensor(1.0))
    ours, theirs = student.blocks[0](numbers), numbers
    for block in teacher.blocks:
        theirs = block(theirs)
    apart = (ours - theirs).square().sum(1) / theirs.square().sum(1)
    torch.testing.assert_close(loss, 1 + 0.5 * (weight * apart).mean())
    loss.backward()
    assert student.blocks[0][0].weight.grad.abs().sum() > 0
    assert teacher.head.weight.grad is None
    same = distill.hidden_loss(theirs, theirs)
    assert same.tolist() == [0.0] * 6


def test_last_layers_of_another_width_are_refused():
    with pytest.raises(JobError, match="reads 4 numbers, its teacher's 8"):
        distill.hidden_loss(torch.zeros(1, 4), torch.zeros(1, 8))
