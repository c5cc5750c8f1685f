from __future__ import annotations

import torch

from tec_zarr.models.windows import from_windows, repacked, surroundings, to_windows


def counted(*shape: int) -> torch.Tensor:
    return torch.arange(int(torch.tensor(shape).prod()), dtype=torch.float32).view(shape)


def test_windows_go_back_together() -> None:
    maps = counted(2, 3, 8, 12)
    windows = to_windows(maps)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(windows[1, 4], maps[1, :, 4:8, 4:8].flatten(1).T)
    assert torch.equal(from_windows(windows, 2), maps)


def test_surroundings_are_a_window_and_its_margin() -> None:
    maps = counted(2, 3, 8, 12)
    around = surroundings(maps)
    assert around.shape == (2, 6, 64, 3)
    inside = around.unflatten(2, (8, 8))[:, :, 2:6, 2:6].flatten(2, 3)
    assert torch.equal(inside, to_windows(maps))
    assert torch.equal(around[0, 0, 0], maps[0, :, 2, 2]), "mirrored at the first place"
    assert torch.equal(around[0, 1, 2], maps[0, :, 2, 4])


def test_repacking_is_its_own_inverse_and_puts_a_part_of_the_channels_into_a_token() -> None:
    tokens = counted(5, 16, 48)
    packed = repacked(tokens)
    assert torch.equal(packed[:, 2].unflatten(1, (16, 3)), tokens[:, :, 6:9])
    assert torch.equal(repacked(packed), tokens)
