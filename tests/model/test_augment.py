"""Augmentation, against the same change made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ray_pipeline.job import Augment
from ray_pipeline.model.augment import augmented
from ray_pipeline.model.augment import changed as changed_batch
from ray_pipeline.model.feed import Rows

IMAGES = torch.randint(1, 256, (64, 9, 12, 3), dtype=torch.uint8)


def changed(**settings) -> torch.Tensor:
    torch.manual_seed(1)
    found = augmented(IMAGES, Augment(**settings))
    assert (found.shape, found.dtype) == (IMAGES.shape, torch.uint8)
    return found


def test_nothing_is_asked_and_nothing_done():
    assert (changed() == IMAGES).all()


def test_the_seed_decides_and_the_images_given_stay():
    before = IMAGES.clone()
    every = {"flip": True, "shift": 0.2, "rotate": 20.0, "cutout": 0.4}
    assert (changed(**every) == changed(**every)).all()
    assert (before == IMAGES).all()


def test_about_half_are_mirrored():
    found = changed(flip=True)
    mirrored = (found == IMAGES.flip(2)).flatten(1).all(1)
    same = (found == IMAGES).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 16 < mirrored.sum() < 48


def test_each_is_moved_by_whole_pixels_and_black_comes_in():
    found, moves = changed(shift=0.25), set()  # at most 2 down, 3 across
    for before, after in zip(IMAGES.numpy(), found.numpy(), strict=True):
        padded = np.pad(before, ((2, 2), (3, 3), (0, 0)))
        fits = [
            (down, across)
            for down in range(5)
            for across in range(7)
            if (padded[down : down + 9, across : across + 12] == after).all()
        ]
        assert len(fits) == 1
        moves |= {*fits}
    assert len(moves) > 15


def test_a_turn_is_one_around_the_middle(monkeypatch):
    """Against Pillow's, for an image that is not square."""
    steps = torch.linspace(0, 255, 40)
    picture = (steps[:24, None] / 2 + steps[None, :] / 2).round().byte()
    monkeypatch.setattr(torch, "rand", torch.ones)
    found = augmented(picture[None, :, :, None], Augment(rotate=30))[0, :, :, 0].int().numpy()
    wanted = [
        np.asarray(Image.fromarray(picture.numpy()).rotate(angle, Image.Resampling.BILINEAR), int)
        for angle in (30, -30)
    ]
    middle = slice(6, 18), slice(10, 30)
    apart = [np.abs(found[middle] - each[middle]).max() for each in wanted]
    assert min(apart) <= 3 < 10 < max(apart)


def test_turns_go_to_either_side_and_no_further():
    line = torch.zeros(200, 41, 41, 1, dtype=torch.uint8)
    line[:, 20, 20:, :] = 255  # from the middle to the right
    torch.manual_seed(0)
    found = augmented(line, Augment(rotate=40))[:, :, :, 0].float()
    rows = torch.arange(41.0) - 20
    ends = found[:, :, 35]
    angles = torch.atan2((ends * rows).sum(1) / ends.sum(1), torch.tensor(15.0))
    degrees = angles * 180 / math.pi
    assert degrees.abs().max() < 41
    assert degrees.min() < -30 < 30 < degrees.max()


def test_a_square_is_cut_out_of_each():
    found = changed(cutout=0.34)  # of 9: 3 pixels
    black = (found == 0).all(3)
    assert (black.sum((1, 2)) == 9).all()
    assert ((found == IMAGES) | (found == 0)).all()
    assert len(black.flatten(1).unique(dim=0)) > 20


@pytest.mark.parametrize("setting", [{"shift": 0.6}, {"cutout": 1}, {"rotate": -1}])
def test_what_cannot_be_is_refused(setting):
    with pytest.raises(ValueError, match="Input should be"):
        Augment(**setting)


def test_a_batch_keeps_all_else():
    batch = Rows({"image": IMAGES, "numbers": torch.ones(64, 2)}, torch.arange(64))
    torch.manual_seed(0)
    found = changed_batch(batch, Augment(flip=True))
    assert (found.inputs["image"] != IMAGES).any()
    assert found.inputs["numbers"] is batch.inputs["numbers"]
    assert found.label is batch.label
    assert changed_batch(batch, None) is batch
    table = Rows({"numbers": torch.ones(64, 2)}, torch.arange(64))
    same = changed_batch(table, Augment(flip=True))
    assert same.inputs["numbers"] is table.inputs["numbers"]


def test_about_a_share_of_the_tokens_is_left_out_and_never_the_first():
    torch.manual_seed(2)
    tokens = torch.randint(0, 100, (200, 50))
    tokens[:, 40:] = -1
    before = tokens.clone()
    batch = Rows({"tokens": tokens}, torch.zeros(200))
    found = changed_batch(batch, Augment(drop=0.25)).inputs["tokens"]
    assert (tokens == before).all()
    assert (found[:, 0] == tokens[:, 0]).all()
    assert (found[:, 40:] == -1).all()
    kept = found[:, 1:40] == tokens[:, 1:40]
    assert (kept | (found[:, 1:40] == -1)).all()
    assert kept.float().mean() == pytest.approx(0.75, abs=0.02)
    assert changed_batch(batch, Augment(flip=True)).inputs["tokens"] is tokens
