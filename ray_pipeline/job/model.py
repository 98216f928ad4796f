"""The network."""

from __future__ import annotations

from pydantic import Field

from ray_pipeline.job.base import Fraction, Settings


class Trees(Settings):
    """Gradient-boosted trees. An epoch adds `rounds` of them for each class."""

    rounds: int = Field(50, ge=1, description="Trees that an epoch adds, for each class.")
    learning_rate: float = Field(0.05, gt=0, le=1, description="What a tree's leaves count for.")
    leaves: int = Field(31, ge=2, description="Most leaves of a tree.")
    min_rows: int = Field(20, ge=1, description="Fewest training rows in a leaf.")
    columns: float = Field(0.5, gt=0, le=1, description="Share of the columns that a tree sees.")
    l2: float = Field(0.0, ge=0, description="L2 penalty on the leaves.")


class Lora(Settings):
    """Low-rank additions to a pretrained network's linear layers, which themselves stay."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1, description="The addition counts alpha / rank.")
    dropout: Fraction = 0.0


class Contrastive(Settings):
    """How an `embedding` learns which texts belong together: from those that do not."""

    temperature: float = Field(
        0.05,
        gt=0,
        description="What similarities are divided by: the less, the more the nearest "
        "wrong passages count.",
    )
    hard_negatives: bool = Field(
        False,
        description="Give each question, besides the passages of its batch, the wrong one that "
        "the base finds nearest to it; they are sought once, before training.",
    )


class Model(Settings):
    name: str = Field(
        "mlp",
        description="`mlp`, `resnet`, `ft_transformer`, `trees`; of images `cnn` or `convnet`; of "
        "a text's tokens `encoder`, or `language`, which writes answers, or `embedding`, which "
        "finds them; or your own as module:function; "
        "`auto` lets the search choose among those that suit the data.",
        examples=["resnet"],
    )
    base: str | None = Field(
        None,
        description="Weights to begin with, of a `convnet`, an `encoder`, a `language` or an "
        "`embedding` (there by default of what makes the tokens): a folder or a hub's id, with "
        "config.json and model.safetensors.",
    )
    layers: int | None = Field(
        None,
        ge=1,
        description="Layers of an `encoder` or `embedding` that are kept, evenly spaced; or all.",
    )
    lora: Lora | None = Field(
        None,
        description="Train an `encoder`, a `language` or an `embedding` through low-rank "
        "additions, not in full.",
    )
    contrastive: Contrastive = Contrastive()
    width: int = Field(128, ge=1, description="Units in a hidden layer; of a token, if `heads`.")
    depth: int = Field(2, ge=1, le=64, description="Hidden layers, residual or attention blocks.")
    heads: int = Field(8, ge=1, description="Attention heads of a transformer; they share `width`.")
    dropout: Fraction = 0.2
    trees: Trees = Trees()
    embedding: int = Field(
        8, ge=1, description="Length of the vector that stands for a category or a number."
    )
    frequencies: int = Field(
        16,
        ge=0,
        description="Sines and cosines that a number is given to the network as, besides itself: "
        "they let it see fine steps; 0 for none.",
    )
    frequency_scale: float = Field(
        4.0, gt=0, description="Standard deviation of the frequencies at the start of training."
    )
