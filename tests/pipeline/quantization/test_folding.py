from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.quantization.folding import fold_batch_norm

FAMILIES = sorted(entry.name for entry in entry_points(group="edgedistill.models"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Shapes(nn.Module):
    """Convolutions of one and three axes, a transposed one, a linear layer; all with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(16, 6, 3, bias=False)
        self.line_norm = nn.BatchNorm1d(6)
        self.solid = nn.Conv3d(1, 3, 3, groups=1)
        self.solid_norm = nn.BatchNorm3d(3)
        self.up = nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(5)
        self.dense = nn.Linear(7, 9, bias=False)
        self.dense_norm = nn.BatchNorm1d(9, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        line = self.line_norm(self.line(x.flatten(1, 2))).flatten(1)
        solid = self.solid_norm(self.solid(x.unsqueeze(1))).flatten(1)
        up = self.up_norm(self.up(x)).relu().flatten(1)
        dense = self.dense_norm(self.dense(x[:, 0, 0, :7]))
        return torch.cat([line, solid, up, dense], 1)


class Kept(nn.Module):
    """Norms that cannot become part of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(4)  # follows no layer
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.after_twice = nn.BatchNorm2d(4)  # its layer runs twice
        self.branched = nn.Conv2d(4, 4, 1)
        self.after_branch = nn.BatchNorm2d(4)  # its layer is read by another, too
        self.batch = nn.Conv2d(4, 4, 1)
        self.of_the_batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.penalised = nn.Conv2d(4, 4, 1)
        self.after_penalised = nn.BatchNorm2d(4)  # forward() reads the layer's weight itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.after_twice(self.twice(self.twice(self.first(x))))
        branch = self.branched(x)
        x = self.of_the_batch(self.batch(self.after_branch(branch) + branch))
        return self.after_penalised(self.penalised(x)) * self.penalised.weight.mean()


class Shared(nn.Module):
    """One layer under two names; two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = self.alias = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = self.other = nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.two.weight = self.one.weight
        self.last = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.two(self.one(self.other(self.alias(x)))))


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.mean() > 0 else x


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_network_is_the_same_function(kit, built, far, name) -> None:
    model, x = built(name), torch.randn(9, *kit.shape)
    folded = fold_batch_norm(model)
    assert far(model(x), folded(x)) < 1e-5
    assert not [m for m in folded.modules() if isinstance(m, NORMS)]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_a_copy_of_the_same_class_that_can_be_tapped(kit, built, name) -> None:
    model, x = built(name).train(), torch.randn(2, *kit.shape)
    before = kit.weights(model)
    folded = fold_batch_norm(model)
    assert kit.equal(before, kit.weights(model))
    assert model.training
    assert not folded.training
    assert type(folded) is type(model)
    assert [n for n, _ in folded.named_modules()] == [n for n, _ in model.named_modules()]
    logits, features = folded.forward_with_taps(x, folded.taps)
    assert torch.equal(logits, folded(x))
    assert tuple(features) == model.taps
    assert not {p.data_ptr() for p in folded.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }


def test_weights_of_one_folded_network_fit_another(kit, built) -> None:
    one = fold_batch_norm(built("mobilenetv3"))
    other = fold_batch_norm(kit.model("mobilenetv3", seed=5, width=8))
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, *kit.shape)
    assert torch.equal(one(x), other(x))


def test_every_kind_of_layer(settle) -> None:
    x = torch.randn(8, 4, 4, 8)
    model = settle(Shapes(), x)
    folded = fold_batch_norm(model)
    assert not [m for m in folded.modules() if isinstance(m, NORMS)]
    torch.testing.assert_close(model(x), folded(x), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_folded_stays(settle, far) -> None:
    x = torch.randn(8, 4, 5, 5)
    model = settle(Kept(), x)
    folded = fold_batch_norm(model)
    assert sum(isinstance(m, NORMS) for m in folded.modules()) == 5
    assert far(model(x), folded(x)) < 1e-5


def test_modules_and_weights_that_are_shared(settle, far) -> None:
    x = torch.randn(8, 4, 5, 5)
    model = settle(Shared(), x)
    folded = fold_batch_norm(model)
    assert far(model(x), folded(x)) < 1e-5
    assert isinstance(folded.norm, nn.Identity)
    assert folded.norm is folded.other
    assert isinstance(folded.last, nn.BatchNorm2d)


def test_frozen_weights_stay_frozen(settle) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1).requires_grad_(False), nn.BatchNorm2d(2))
    folded = fold_batch_norm(settle(model, torch.randn(4, 1, 2, 2)))
    assert not any(p.requires_grad for p in folded.parameters())


def test_a_network_that_cannot_be_followed() -> None:
    model = Deciding().train()
    with pytest.raises(ModelError, match=r"Deciding .*torch\.fx cannot follow") as caught:
        fold_batch_norm(model)
    assert "take `recover` and equalisation out of `quantize`" in caught.value.hint
    assert model.training
