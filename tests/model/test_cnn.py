"""Networks for images: their shapes, what they learn, and their ONNX graphs."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.model.cnn import Cnn, Standardised
from ray_pipeline.model.convnet import Convnet
from ray_pipeline.model.inputs import Inputs

MODELS = {"cnn": Cnn, "convnet": Convnet}


def inputs(side: int = 32, channels: int = 3, numbers: int = 0, sizes: tuple[int, ...] = ()):
    image = ImageStatistics(
        name="photo",
        missing=0,
        height=side,
        width=side,
        channels=channels,
        mean=(100.0, 110.0, 120.0)[:channels],
        deviation=(50.0, 60.0, 70.0)[:channels],
    )
    return Inputs(numbers=numbers, categories=sizes, outputs=4, image=image)


def images(count: int, side: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8)


@pytest.fixture(params=MODELS)
def maker(request):
    return MODELS[request.param]


def test_pixels_are_standardised_with_the_channels_side_by_side_in_memory():
    found = Standardised(inputs().image)(images(2))
    assert found.shape == (2, 3, 32, 32)
    assert found.is_contiguous(memory_format=torch.channels_last)
    plain = Standardised(inputs().image)(torch.tensor([[[[100, 170, 50]]]], dtype=torch.uint8))
    assert plain.flatten().tolist() == [0, 1, -1]


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_of_images_alone(maker, channels):
    network = maker(Model(width=32, depth=1), inputs(channels=channels)).eval()
    assert network(image=images(5, channels=channels)).shape == (5, 4)


def test_other_columns_are_read_beside_the_image(maker):
    network = maker(Model(width=32, depth=1), inputs(numbers=2, sizes=(3,))).eval()
    row = {
        "image": images(1).expand(2, -1, -1, -1),
        "numbers": torch.tensor([[0.0, 1], [2, 3]]),
        "categories": torch.tensor([[0], [2]]),
    }
    found = network(**row)
    assert found.shape == (2, 4)
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("side", [1, 2, 7, 28, 33])
def test_a_cnn_reads_images_of_any_size(side):
    network = Cnn(Model(width=16, depth=4), inputs(side)).eval()
    assert network(image=images(2, side)).shape == (2, 4)


def test_a_cnn_doubles_its_channels_up_to_the_width():
    network = Cnn(Model(width=64, depth=3), inputs())
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, *[16] * 3, *[32] * 3, *[64] * 3]
    assert network.head.in_features == 64


def test_a_cnn_learns_where_a_spot_is():
    torch.manual_seed(0)
    place = torch.randint(0, 4, (64,))
    pictures = torch.zeros(64, 8, 8, 1, dtype=torch.uint8)
    pictures[torch.arange(64), 2 + 3 * (place // 2), 2 + 3 * (place % 2)] = 255
    network = Cnn(Model(width=16, depth=1, dropout=0), inputs(8, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(image=pictures), place)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_the_onnx_graph_reads_pixels_and_says_the_same(maker):
    torch.manual_seed(0)
    network = maker(Model(width=32, depth=1), inputs()).eval()
    rows = torch.export.Dim("rows")
    program = torch.onnx.export(
        network, (images(2),), dynamo=True, dynamic_shapes=({0: rows},), verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    given = images(5)
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    assert np.abs(found - network(image=given).detach().numpy()).max() < 1e-4


def test_rows_without_an_image_are_refused(maker):
    with pytest.raises(JobError, match="the rows have no image"):
        maker(Model(), Inputs(numbers=3, categories=(), outputs=2))


def test_small_images_are_not_for_a_convnet():
    with pytest.raises(JobError, match="too small for `convnet`"):
        Convnet(Model(), inputs(28))


@pytest.fixture(scope="module", params=["resnet", "convnext"])
def base(request, tmp_path_factory):
    """A small network as its makers would publish it, with weights that are not fresh."""
    import transformers

    torch.manual_seed(3)
    if request.param == "resnet":
        settings = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        network = transformers.ResNetModel(settings)
    else:
        settings = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)
        network = transformers.ConvNextModel(settings)
    folder = tmp_path_factory.mktemp(request.param)
    network.save_pretrained(folder)
    return network.eval(), folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_base_keeps_its_weights(base, channels):
    published, folder = base
    network = Convnet(Model(base=str(folder)), inputs(channels=channels)).eval()
    given = images(2, channels=channels)
    planes = network.standardised(given).expand(-1, 3, -1, -1)
    wanted = published(pixel_values=planes).pooler_output.flatten(1)
    assert torch.allclose(network(image=given), network.head(wanted), atol=1e-5)


def test_a_base_that_is_none_says_so(tmp_path):
    with pytest.raises(JobError, match="cannot be loaded"):
        Convnet(Model(base=str(tmp_path)), inputs())
