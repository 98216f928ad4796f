from __future__ import annotations

import json
import subprocess
import sys

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from ray_pipeline.job import Offload, Train
from ray_pipeline.model import memory
from ray_pipeline.model.memory import Shape, needed

LARGE = Shape(trained=10**9, frozen=0, largest=10**7, row_bytes=0.0)

MEASURED = """
import json, sys
from pathlib import Path
import torch
from ray_pipeline.job import Model, Train
from ray_pipeline.model import memory, strategy, zoo
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.inputs import Inputs

def status(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return 1024 * int(line.split()[1])

def rows(count):
    categories = torch.zeros(count, 4, dtype=torch.int64)
    inputs = {"numbers": torch.randn(count, 8), "categories": categories}
    return Rows(inputs, torch.zeros(count, dtype=torch.int64))

def loss(model, part):
    return torch.nn.functional.cross_entropy(model(**part.inputs), part.label)

torch.set_num_threads(1)
name, width, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train, inputs = Train(), Inputs(numbers=8, categories=(9,) * 4, outputs=2)
network = zoo.build(Model(name=name, width=width, depth=3), inputs)
shape = memory.shape(network, lambda few: loss(network, rows(few)))
batch = rows(count)
engine = strategy.prepared(network, train, "ddp", torch.device("cpu"), count)
engine.step([rows(8)], loss)  # states, and what libraries set up
before = status("VmRSS")
engine.step([batch], loss)
grown = status("VmHWM") - before
need = memory.needed(shape, train, "ddp", 1, count)
tensors = memory.peak_bytes(network, lambda: loss(network, batch))
print(json.dumps([need.activations, tensors, grown]))
"""


@pytest.mark.parametrize(
    ("name", "width", "rows"), [("mlp", 1024, 6000), ("ft_transformer", 64, 1500)]
)
def test_activations_are_what_was_predicted_from_a_few_rows(name, width, rows):
    arguments = [name, str(width), str(rows)]
    command = [sys.executable, "-c", MEASURED, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, tensors, grown = json.loads(ended.stdout.splitlines()[-1])
    assert predicted > 1e8
    assert tensors == pytest.approx(predicted, rel=0.03)
    assert predicted < grown < predicted / memory.USABLE["cpu"] * 1.1  # the process's own memory


@pytest.mark.parametrize("workers", [2, 8, 64])
def test_sharding_divides_what_it_shards(workers):
    found = {name: needed(LARGE, Train(), name, workers, 1).total for name in memory.STRATEGIES}
    buffer = 4 * memory.BUCKET
    assert found["ddp"] == 16e9
    assert found["zero1"] == pytest.approx(8e9 + buffer + 12e9 / workers)
    assert found["zero2"] == pytest.approx(4e9 + buffer + 16e9 / workers)
    assert found["zero3"] == pytest.approx(2 * buffer + 4 * LARGE.largest + 20e9 / workers)


@pytest.mark.parametrize("workers", [2, 8])
def test_the_shards_are_those_of_deepspeeds_estimators(workers):
    """They count 16-bit weights and gradients beside float32 ones: 18 bytes, where we have 16 and
    20, since there is no second copy of float32 gradients, and a whole one of the weights."""
    _, two = estimate_zero2_model_states_mem_needs(LARGE.trained, workers, 1, cpu_offload=False)
    ours = needed(LARGE, Train(), "zero2", workers, 1).total - 4 * memory.BUCKET
    assert ours == pytest.approx(two + 2e9 - 2e9 / workers)
    _, three, _ = estimate_zero3_model_states_mem_needs(
        LARGE.trained, LARGE.largest, workers, 1, cpu_offload=False, cpu_offload_params=False
    )
    ours = needed(LARGE, Train(), "zero3", workers, 1).total - 8 * memory.BUCKET
    assert ours == pytest.approx(three + 2e9 / workers)


def test_what_is_offloaded_is_counted_elsewhere():
    def with_(**places: str):
        train = Train(strategy="zero3", offload=Offload(**places))
        return needed(LARGE, train, "zero3", 8, 1)

    plain = needed(LARGE, Train(), "zero3", 8, 1)
    both = with_(optimizer="cpu", parameters="cpu")
    assert both.optimizer == 0
    assert both.weights == plain.weights - 0.5e9
    assert both.host == plain.optimizer + 0.5e9 + 0.5e9  # and the gradients that Adam reads there
    assert with_(optimizer="nvme", folder="/fast").host == 0


def test_parts_of_a_step_divide_activations_alone():
    shape = Shape(trained=1000, frozen=500, largest=10, row_bytes=100.0)
    whole, cut = (needed(shape, Train(accumulate=n), "ddp", 1, 64) for n in (1, 4))
    assert (whole.activations, cut.activations) == (6400, 1600)
    assert whole.total - cut.total == 4800
    assert whole.weights == 4 * 1500
