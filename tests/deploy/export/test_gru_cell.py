"""GRUs as matrix products: `nn.GRU` and a float64 loop agree with them, and models come out unchanged."""

import numpy as np
import pytest
import torch
from torch import nn

from kdse.deploy.export.gru_cell import gru_as_products


def by_hand(gru: nn.GRU, x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """One layer over ``[T, B, in]`` in float64, from the formula in PyTorch's documentation."""
    wi, wh, bi, bh = (p.detach().double().numpy() for p in (*gru.all_weights[0],))
    size, outputs = gru.hidden_size, []
    for frame in x:
        i, h = frame @ wi.T + bi, hidden @ wh.T + bh
        r, z = (1 / (1 + np.exp(-(i[:, s] + h[:, s]))) for s in (slice(0, size), slice(size, 2 * size)))
        n = np.tanh(i[:, 2 * size :] + r * h[:, 2 * size :])
        hidden = (1 - z) * n + z * hidden
        outputs.append(hidden)
    return np.stack(outputs)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_products_equal_the_gru(layers: int, bias: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    gru = nn.GRU(7, 5, layers, bias=bias, batch_first=batch_first)
    x, start = torch.randn(3, 3, 7), torch.randn(layers, 3, 5)
    for hidden in (None, start):
        wanted = gru(x, hidden)
        with gru_as_products(gru):
            found = gru(x, hidden)
        for a, b in zip(found, wanted, strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, atol=1e-6)


def test_products_equal_a_float64_loop_over_many_frames() -> None:
    torch.manual_seed(1)
    gru = nn.GRU(40, 40, batch_first=True)
    x, hidden = torch.randn(2, 60, 40), torch.randn(1, 2, 40)
    with torch.no_grad(), gru_as_products(gru):
        found = gru(x, hidden)[0].transpose(0, 1).numpy()
    wanted = by_hand(gru, x.transpose(0, 1).double().numpy(), hidden[0].double().numpy())
    assert np.abs(found - wanted).max() < 2e-6


def test_the_model_is_a_gru_again_afterwards_even_after_an_error() -> None:
    model = nn.Sequential(nn.GRU(2, 2), nn.GRU(2, 2, bidirectional=True))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), gru_as_products(model):
        assert type(model[0]) is not nn.GRU
        assert type(model[1]) is nn.GRU  # one that runs both ways is left alone
        raise RuntimeError("stop")
    assert type(model[0]) is nn.GRU
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
