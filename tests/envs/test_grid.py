import itertools

import pytest
import torch
from torch.func import vmap

from funrl.envs import _draw as draw, _grid as grid
from tests.oracles import gridworlds

SHAPE = (3, 5)


def test_a_walk_from_every_tile_is_a_plain_one():
    walls = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.3
    cases = list(itertools.product(range(3), range(5), range(4)))
    for row, column, action in cases:
        for table in (walls, torch.zeros_like(walls)):
            new = grid.walk(torch.tensor([row, column]), torch.tensor(action), table)
            assert tuple(new.tolist()) == gridworlds.walk(table.tolist(), (row, column), action)
    assert grid.ACTION_NAMES == ("left", "down", "right", "up")


def test_entries_and_masks():
    table = torch.arange(15).reshape(SHAPE)
    places = torch.tensor(list(itertools.product(range(3), range(5))))
    assert torch.equal(vmap(grid.at, (None, 0))(table, places), torch.arange(15))
    masks = vmap(lambda place: grid.mask(place, SHAPE))(places)
    assert torch.equal(masks.reshape(15, 15), torch.eye(15).bool())


def test_layouts():
    numbers, places = grid.parse("Ball", "S.# ..G", "#.SG", once="SG")
    assert numbers.tolist() == [[2, 1, 0], [1, 1, 3]] and places == {"S": [0, 0], "G": [1, 2]}
    again, _ = grid.parse("Ball", ["S.#", "..G"], "#.SG", once="SG")
    assert torch.equal(again, numbers)
    for wrong in (3, [3], None):
        with pytest.raises(TypeError, match="Ball: layout: expected a text"):
            grid.parse("Ball", wrong, "#.SG", once="SG")
    with pytest.raises(ValueError, match="expected rows of the same length"):
        grid.parse("Ball", "", "#.SG", once="SG")


def test_a_picture_shows_each_tile_where_it_is():
    where = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    picture = grid.board(SHAPE, torch.device("cpu"))
    red = draw.paint(picture, grid.tiles(picture, where), (1.0, 0.0, 0.0))
    red = grid.token(red, torch.tensor([1, 4]), (0.0, 0.0, 1.0))
    image = draw.to_uint8(red)
    side = image.shape[0] // 3
    assert image.shape == (3 * side, 5 * side, 3) and min(image.shape[:2]) >= 240
    middles = image[side // 2 :: side, side // 2 :: side]
    assert torch.equal((middles == torch.tensor([255, 0, 0])).all(-1), where)
    assert middles[1, 4].tolist() == [0, 0, 255]
    edges = image[::side, ::side]  # between two tiles is a gap
    assert (edges.float().min(-1).values > 200).all()
