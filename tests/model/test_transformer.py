from __future__ import annotations

import pytest
import torch

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.model import zoo
from ray_pipeline.model.transformer import Block, Tokens

MODEL = Model(name="ft_transformer", width=16, heads=4, depth=2, frequencies=0, dropout=0.0)


def test_a_block_attends_as_torchs_own_attention():
    torch.manual_seed(0)
    block, tokens = Block(MODEL, normalise=True, first_only=False), torch.randn(5, 7, 16)
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.both.weight]))
        reference.in_proj_bias.copy_(torch.cat([block.query.bias, block.both.bias]))
        reference.out_proj.load_state_dict(block.mixed.state_dict())
        read = block.before(tokens)
        attended = tokens + reference(read, read, read)[0]
        gate, hidden = block.widened(block.between(attended)).chunk(2, dim=2)
        expected = attended + block.narrowed(gate.relu() * hidden)
    torch.testing.assert_close(block(tokens), expected)


def test_the_last_block_computes_the_first_token_alone_and_the_same():
    torch.manual_seed(0)
    whole = Block(MODEL, normalise=True, first_only=False)
    first = Block(MODEL, normalise=True, first_only=True)
    first.load_state_dict(whole.state_dict())
    tokens = torch.randn(5, 7, 16)
    torch.testing.assert_close(first(tokens), whole(tokens)[:, :1])


def test_each_column_is_a_token_and_plain_numbers_are_one():
    inputs = zoo.Inputs(numbers=9, categories=(4, 3), outputs=2, embedded=2)
    tokens = Tokens(MODEL, inputs)
    numbers, categories = torch.randn(5, 9), torch.tensor([[3, 2]] * 5)
    found = tokens(numbers, categories)
    assert found.shape == (5, 1 + 2 + 2 + 1, 16)
    torch.testing.assert_close(
        found[:, 2], numbers[:, 1:2] * tokens.weight[1] + tokens.bias[1], msg="the second number"
    )
    torch.testing.assert_close(found[0, 4], tokens.table[4 + 2] + tokens.bias[3])
    torch.testing.assert_close(found[:, 5], tokens.others(numbers[:, 2:]))


def test_heads_must_share_the_width():
    with pytest.raises(JobError, match="7 attention heads cannot share a width of 16"):
        zoo.build(
            MODEL.model_copy(update={"heads": 7}), zoo.Inputs(numbers=1, categories=(), outputs=1)
        )
