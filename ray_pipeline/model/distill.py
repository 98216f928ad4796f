"""A smaller network, the student, that learns from the trained one besides the labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from upath import UPath

from ray_pipeline.errors import JobError
from ray_pipeline.job import Distill, Model, Train
from ray_pipeline.model import train
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.train import Progress, Record


@dataclass(frozen=True)
class Teacher:
    """The network in `trained`, and how much its word and what it makes of a row count."""

    trained: UPath
    temperature: float
    alpha: float
    hidden: float = 0.0

    def opened(
        self, student: nn.Module, device: torch.device
    ) -> Callable[[Rows, Tensor, Tensor], Tensor]:
        """A function from rows, the student's logits and its mean loss to the loss it learns from:
        (1 - alpha) loss + alpha soft + hidden apart, with `soft` the mean of `soft_loss` and
        `apart` that of `hidden_loss`, weighted as the rows are."""
        network = train.load(self.trained).to(device)
        read = [_Read(each) for each in (student, network)] if self.hidden else []

        def taught(rows: Rows, logits: Tensor, loss: Tensor) -> Tensor:
            with torch.no_grad():
                said = network(**rows.inputs)
            several = rows.label.ndim == 2
            told = self.alpha * soft_loss(logits, said, self.temperature, several=several)
            if read:
                told = told + self.hidden * hidden_loss(read[0].value, read[1].value)
            mean = told.mean() if rows.weight is None else (rows.weight * told).mean()
            return (1 - self.alpha) * loss + mean

        return taught


class _Read:
    """What the last layer of a network read when it was called last: [N, width]."""

    value: Tensor

    def __init__(self, network: nn.Module) -> None:
        network.get_submodule("head").register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.value = inputs[0]


@dataclass(frozen=True)
class Beginning:
    """Gives a fresh student what it can inherit of the network in `trained`."""

    trained: UPath

    def __call__(self, network: nn.Module) -> None:
        inherit(network, train.load(self.trained).state_dict())


def write(
    trained: UPath,
    features: UPath,
    training: Train,
    settings: Distill,
    *,
    out: UPath,
    work: UPath,
    progress: Progress,
) -> Record:
    """Train a student of the network in `trained`; files and interruptions as `train.write`.

    Raises:
        JobError: the student's settings are not those of a network.
        TrainingError: as `train.write`.
    """
    described = json.loads((trained / "model.json").read_text())["model"]
    model = Model.model_validate(described | settings.model)
    if model.name == "trees":
        raise JobError(
            "trees do not learn from a teacher",
            where="compress.distill.model.name",
            expected="a network, say mlp",
        )
    changed = {
        "epochs": settings.epochs or training.epochs,
        "learning_rate": settings.learning_rate or training.learning_rate,
        "augment": settings.augment or training.augment,
    }
    return train.write(
        features,
        model,
        training.model_copy(update=changed),
        out,
        work=work,
        progress=progress,
        begin=Beginning(trained),
        teacher=Teacher(trained, settings.temperature, settings.alpha, settings.hidden),
    )


def soft_loss(
    student: Tensor, teacher: Tensor, temperature: float, several: bool = False
) -> Tensor:
    """How far a student's logits [N, K] are from a teacher's, for each row [N].

    T² KL(softmax(teacher / T) ‖ softmax(student / T)), the T² so that gradients are as large as the
    label's: Hinton et al. (2015), https://arxiv.org/abs/1503.02531. Of one output, a standardised
    value, the squared difference. Of `several` labels, each a choice of its own between two, the
    mean over them.
    """
    if several:
        pairs = [
            torch.stack([logits, torch.zeros_like(logits)], 2) for logits in (student, teacher)
        ]
        heard, said = (log_softmax(pair / temperature, dim=2) for pair in pairs)
        apart = kl_div(heard, said, reduction="none", log_target=True)
        return temperature**2 * apart.sum(2).mean(1)
    if student.shape[1] == 1:
        return (student - teacher).square()[:, 0]
    said = log_softmax(teacher / temperature, dim=1)
    heard = log_softmax(student / temperature, dim=1)
    return temperature**2 * kl_div(heard, said, reduction="none", log_target=True).sum(1)


def hidden_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How far what a student makes of a row is from what its teacher does, for each row [N].

    The squared distance of their last hidden layers [N, width] as a share of the teacher's squared
    length. To match a layer of the teacher's besides its outputs: Romero et al., "FitNets" (2015),
    https://arxiv.org/abs/1412.6550. Hidden layers say more of a row than a few logits do.

    Raises:
        JobError: the layers are not of one width.
    """
    if student.shape != teacher.shape:
        raise JobError(
            f"the student's last layer reads {student.shape[1]} numbers, its teacher's "
            f"{teacher.shape[1]}",
            where="compress.distill.hidden",
            expected="0, or a student that differs in its layers alone",
        )
    return (student - teacher).square().sum(1) / teacher.square().sum(1)


@torch.no_grad()
def inherit(student: nn.Module, teacher: Mapping[str, Tensor]) -> list[str]:
    """Copy into `student` what it has in common with the weights of `teacher`, and say what.

    A list of S layers takes from one of L those spread evenly from the first to the last, as in
    Sanh et al. (2019), https://arxiv.org/abs/1910.01108; what differs in shape stays fresh.
    """
    own = student.state_dict()
    mine, theirs = _places(own), _places(teacher)
    copied = []
    for name, value in own.items():
        given = teacher.get(_counterpart(name, mine, theirs))
        if given is not None and given.shape == value.shape:
            value.copy_(given)
            copied.append(name)
    return copied


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers below each prefix of dotted names, in order: `blocks.0.weight` → blocks: [0]."""
    found: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")
        for index, part in enumerate(parts):
            if part.isdigit():
                found.setdefault(".".join(parts[:index]), set()).add(int(part))
    return {prefix: sorted(numbers) for prefix, numbers in found.items()}


def _counterpart(name: str, mine: dict[str, list[int]], theirs: dict[str, list[int]]) -> str:
    """The teacher's name for what the student calls `name`; of numbers, the one as far along."""
    own: list[str] = []
    other: list[str] = []
    for part in name.split("."):
        numbers = theirs.get(".".join(other))
        if part.isdigit() and numbers:
            among = mine[".".join(own)]
            share = among.index(int(part)) / max(len(among) - 1, 1)
            other.append(str(numbers[round(share * (len(numbers) - 1))]))
        else:
            other.append(part)
        own.append(part)
    return ".".join(other)
