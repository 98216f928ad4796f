from __future__ import annotations

import statistics as stats
import time

import numpy as np
import onnxruntime
import pytest
import torch

from ray_pipeline.data.onnx_export import graph_of
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Model
from ray_pipeline.model import zoo

INPUTS = zoo.Inputs(numbers=3, categories=(4, 7, 3), outputs=2)


def rows(inputs: zoo.Inputs, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(size, (count, 1), generator=generator) for size in inputs.categories]
    categories = torch.cat(columns, 1) if columns else torch.empty(count, 0, dtype=torch.int64)
    return torch.randn(count, inputs.numbers, generator=generator), categories


@pytest.mark.parametrize("name", ["mlp", "resnet", "ft_transformer"])
@pytest.mark.parametrize("frequencies", [0, 4])
@pytest.mark.parametrize(
    "inputs",
    [
        INPUTS,
        zoo.Inputs(numbers=0, categories=(4, 7), outputs=3),
        zoo.Inputs(numbers=2, categories=(), outputs=1),
    ],
)
def test_every_network_gives_logits_for_any_mix_of_columns(name, frequencies, inputs):
    network = zoo.build(Model(name=name, frequencies=frequencies, width=8), inputs).eval()
    assert network(*rows(inputs)).shape == (5, inputs.outputs)


def test_categories_are_looked_up_each_in_its_own_part_of_the_table():
    network = zoo.build(Model(frequencies=0, embedding=6), INPUTS)
    numbers, categories = rows(INPUTS)
    table = network.embedded.table.weight.split(INPUTS.categories)
    expected = [numbers, *(part[categories[:, c]] for c, part in enumerate(table))]
    torch.testing.assert_close(network.embedded(numbers, categories), torch.cat(expected, 1))


def test_numbers_are_embedded_by_sines_and_cosines():
    model = Model(frequencies=5, embedding=6)
    waves = zoo.Waves(3, model)
    numbers = rows(INPUTS)[0].numpy()
    frequencies = waves.frequencies.detach().numpy()
    weight, bias = (p.detach().numpy() for p in waves.mixed.parameters())
    angles = np.einsum("nf,fk->nfk", numbers, frequencies)
    mixed = np.concatenate([np.cos(angles), np.sin(angles)], 2) @ weight.T + bias
    expected = np.maximum(mixed, 0).reshape(len(numbers), -1)
    np.testing.assert_allclose(waves(torch.tensor(numbers)).detach(), expected, atol=1e-5)


def test_the_frequencies_start_at_the_scale_asked_for():
    waves = zoo.Waves(50, Model(frequencies=100, frequency_scale=3.0))
    assert float(waves.frequencies.detach().std()) == pytest.approx(2 * np.pi * 3.0, rel=0.05)


def test_a_residual_block_adds_to_what_it_is_given():
    network = zoo.build(Model(name="resnet", width=8, depth=2), INPUTS).eval()
    numbers, categories = rows(INPUTS)
    with torch.no_grad():
        for block in network.blocks:
            block[4].weight.zero_()
            block[4].bias.zero_()
        without_blocks = network.head(network.first(network.embedded(numbers, categories)))
        torch.testing.assert_close(network(numbers, categories), without_blocks)


class Taking(torch.nn.Module):
    """A network as it is exported: its inputs come by position."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return self.network(*inputs)


@pytest.mark.parametrize("name", ["mlp", "resnet", "ft_transformer"])
def test_it_exports_to_onnx_for_any_number_of_rows_and_answers_at_once(name):
    network = zoo.build(Model(name=name, width=32), INPUTS).eval()
    example = dict(zip(("numbers", "categories"), rows(INPUTS, 2), strict=True))
    content = graph_of(Taking(network), example, opset=20).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        numbers, categories = rows(INPUTS, count)
        feed = {"numbers": numbers.numpy(), "categories": categories.numpy()}
        found = session.run(None, feed)[0]
        np.testing.assert_allclose(found, network(numbers, categories).detach(), atol=1e-5)
    single = {name: values[:1] for name, values in feed.items()}
    seconds = []
    for _ in range(200):
        begun = time.process_time()  # another process's share does not count
        session.run(None, single)
        seconds.append(time.process_time() - begun)
    assert stats.median(seconds) < 0.001


def test_a_network_that_counts_its_rows_as_it_is_traced_is_refused():
    class Counting(torch.nn.Module):
        def forward(self, *inputs):
            return inputs[0] * len(inputs[0])

    with pytest.raises(JobError, match="fixed number of rows"):
        graph_of(Counting(), {"numbers": torch.zeros(2, 3)}, opset=20)


def mine(model: Model, inputs: zoo.Inputs) -> torch.nn.Module:
    return zoo.Mlp(model, inputs)


def no_module(model: Model, inputs: zoo.Inputs) -> str:
    return "not a network"


def test_a_network_of_the_users_own_is_found_by_its_path():
    assert isinstance(zoo.build(Model(name=f"{__name__}:mine"), INPUTS), zoo.Mlp)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forest", "no model is called `forest`"),
        ("nowhere:at_all", "cannot be imported"),
        (f"{__name__}:missing", "cannot be imported"),
        (f"{__name__}:no_module", "returned str"),
    ],
)
def test_a_wrong_name_says_what_would_be_right(name, message):
    with pytest.raises(JobError, match=message) as caught:
        zoo.build(Model(name=name), INPUTS)
    assert caught.value.where == "model.name"
    assert caught.value.expected


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(JobError, match="no feature column"):
        zoo.build(Model(), zoo.Inputs(numbers=0, categories=(), outputs=2))


def test_the_code_digest_follows_the_users_file(tmp_path, monkeypatch):
    def digest(name: str) -> str:
        job = {"name": "x", "data": {"source": "x", "label": "y"}, "model": {"name": name}}
        return zoo.code_digest(Job.model_validate(job))

    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "a_users_network.py"
    file.write_text("one = 1")
    before = digest("a_users_network:build")
    assert before == digest("a_users_network:other")
    file.write_text("two = 2")
    assert digest("a_users_network:build") != before
    assert digest("mlp") == ""
    with pytest.raises(JobError, match="there is no module"):
        digest("there_is.nothing:here")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.73])
def test_dropout_keeps_the_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropout = zoo.Dropout(p)
    ones = torch.ones(1001, 333, requires_grad=True)  # not a multiple of four values
    kept = dropout(ones)
    kept.sum().backward()
    dropped = kept == 0
    assert dropped.float().mean().item() == pytest.approx(p, abs=0.003)
    # Neighbours come from one draw: they must not hang together.
    both = (dropped[:, 1:] & dropped[:, :-1]).float().mean().item()
    assert both == pytest.approx(p * p, abs=0.005)
    assert kept[~dropped].unique().tolist() == pytest.approx([1 / (1 - p)])
    assert ones.grad is not None
    assert torch.equal(ones.grad, kept.detach())
    assert torch.equal(dropout.eval()(ones), ones)


def test_dropout_is_drawn_from_the_seed() -> None:
    dropout, hidden = zoo.Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(3)
    first, second = dropout(hidden), dropout(hidden)
    torch.manual_seed(3)
    assert torch.equal(dropout(hidden), first)
    assert not torch.equal(first, second)


def test_only_the_embedded_numbers_have_waves() -> None:
    inputs = zoo.Inputs(numbers=40, categories=(4,), outputs=2, embedded=3)
    network = zoo.Mlp(Model(), inputs).eval()
    assert network.embedded.waves is not None
    assert network.embedded.waves.frequencies.shape[0] == 3
    assert network.embedded.width == 40 + (3 + 1) * Model().embedding
    assert network(torch.zeros(5, 40), torch.zeros(5, 1, dtype=torch.int64)).shape == (5, 2)
    none = zoo.Mlp(Model(), inputs.model_copy(update={"embedded": 0}))
    assert none.embedded.waves is None


def test_where_all_numbers_are_embedded_nothing_changes() -> None:
    plain = zoo.Inputs(numbers=3, categories=(4,), outputs=2)
    states = []
    for inputs in (plain, plain.model_copy(update={"embedded": 3})):
        torch.manual_seed(0)
        states.append(zoo.build(Model(), inputs).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
