"""The networks that `model.name` may ask for."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Model
from ray_pipeline.model.cnn import Cnn
from ray_pipeline.model.convnet import Convnet
from ray_pipeline.model.embedding import Embedding
from ray_pipeline.model.encoder import Encoder
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.language import Language
from ray_pipeline.model.space import AUTO
from ray_pipeline.model.tabular import Dropout, Embedded, Mlp, ResNet, Waves
from ray_pipeline.model.transformer import FtTransformer
from ray_pipeline.model.trees import Trees

__all__ = [
    "MODELS",
    "Dropout",
    "Embedded",
    "Inputs",
    "Mlp",
    "ResNet",
    "Waves",
    "build",
    "code_digest",
]

_IMPORT_HINT = "install the module, or put its folder on PYTHONPATH"

MODELS: dict[str, Callable[[Model, Inputs], nn.Module]] = {
    "mlp": Mlp,
    "resnet": ResNet,
    "cnn": Cnn,
    "convnet": Convnet,
    "encoder": Encoder,
    "language": Language,
    "embedding": Embedding,
    "ft_transformer": FtTransformer,
    "trees": Trees,
}

_EXPECTED = f"{', '.join(MODELS)}, or module:function"


def build(model: Model, inputs: Inputs) -> nn.Module:
    """The network that `model.name` asks for, with fresh weights from torch's generator.

    Its `forward(numbers [N, F] float32, categories [N, C] int64)` returns logits [N, K].

    Raises:
        JobError: there is no such network, or nothing to read.
    """
    if not (inputs.numbers or inputs.categories or inputs.tokens or inputs.image):
        raise JobError("no feature column is left to learn from", where="data.columns")
    maker = MODELS.get(model.name) or _imported(model.name)
    network = maker(model, inputs)
    if not isinstance(network, nn.Module):
        raise JobError(
            f"`{model.name}` returned {type(network).__name__}",
            where="model.name",
            expected="a torch.nn.Module",
        )
    _check_reads(network, model.name, inputs)
    return network


def plain(network: nn.Module) -> nn.Module:
    """A trained network as it is to predict: what was trained beside its weights is put into
    them."""
    return network.merged() if isinstance(network, Encoder | Language | Embedding) else network


def _check_reads(network: nn.Module, name: str, inputs: Inputs) -> None:
    """Raises JobError where rows have texts' tokens or images that the network does not take."""
    taken = inspect.signature(network.forward).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return
    texts = "question" if name == "embedding" else "tokens"
    for given, there in ((texts, inputs.tokens), ("image", inputs.image)):
        if there and given not in taken:
            raise JobError(
                f"`{name}` does not read the rows' {given}",
                where="model.name",
                expected=f"a network whose forward() takes `{given}`",
                hint="choose another, or give the column the role `ignore`",
            )


def _imported(name: str) -> Callable[[Model, Inputs], nn.Module]:
    module, colon, function = name.partition(":")
    if not colon:
        raise _unknown(name)
    try:
        maker: Callable[[Model, Inputs], nn.Module] = getattr(
            importlib.import_module(module), function
        )
    except (ImportError, AttributeError) as error:
        raise JobError(
            f"`{name}` cannot be imported: {error}",
            where="model.name",
            expected=_EXPECTED,
            hint=_IMPORT_HINT,
        ) from error
    return maker


def _unknown(name: str) -> JobError:
    return JobError(f"no model is called `{name}`", where="model.name", expected=_EXPECTED)


def code_digest(job: Job) -> str:
    """A digest of the file that a network of the user's own is in; empty for the built-in ones.

    Raises:
        JobError: its module cannot be found, or there is no network of that name.
    """
    name = job.model.name
    if name in MODELS or name == AUTO:
        return ""
    module, colon, _ = name.partition(":")
    if not colon:
        raise _unknown(name)
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise JobError(f"there is no module `{module}`", where="model.name", hint=_IMPORT_HINT)
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()[:16]
