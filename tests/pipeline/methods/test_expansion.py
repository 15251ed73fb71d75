"""Growing a student changes nothing, and reading it back gives it back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.expansion import grow, plan_growth
from edgedistill.pipeline.methods.expansion_layers import Branches, Growth
from edgedistill.pipeline.methods.expansion_pair import DYNAMIC_TEACHER, Apart
from edgedistill.pipeline.models.build import build_model

CLASSES, SHAPE = 3, (1, 8, 8)


class Everything(nn.Module):
    """A user's network: dense, depthwise and 1x1 convolutions, biases, a residual, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)
        self.depthwise = nn.Conv2d(4, 8, 3, 2, 1, groups=4, padding_mode="circular")
        self.point = nn.Conv2d(8, 6, 1)
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()
        )
        self.hidden = nn.Linear(6 * 16, 5)
        self.norm1 = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = F.gelu(self.point(self.depthwise(x)))
        x = F.hardswish(x + self.body(x), inplace=True)
        x = x.view(x.size(0), -1)
        return self.head(F.relu(self.norm1(self.hidden(x))))


class Gated(nn.Module):
    """Squeeze-and-excitation, pooling by mean, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3)
        self.squeeze, self.excite = nn.Linear(6, 2), nn.Linear(2, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = F.silu(self.stem((x - 0.1) / 2))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        gate = gate.flatten(1)
        x = F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1)
        return self.head(self.norm(x * gate * 2))


class Vectors(nn.Sequential):
    """For flat inputs: nothing tells the number of axes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        )


def build(name: str) -> nn.Module:
    """A model whose statistics, scales and shifts are not those of a fresh one."""
    torch.manual_seed(0)
    own = {"everything": Everything, "gated": Gated, "vectors": Vectors}
    spec = {"model": name, "options": {"width": 4}}
    model = own[name]() if name in own else build_model(spec, CLASSES, {"image": SHAPE}, Path())
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 1)
    return model


def inputs(name: str) -> torch.Tensor:
    shape = (12, 8) if name == "vectors" else (12, *SHAPE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def both(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits, features = network.forward_with_taps(x, [DYNAMIC_TEACHER])
    return logits, features[DYNAMIC_TEACHER]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


def weights_apart(a: nn.Module, b: nn.Module) -> float:
    one, other = a.state_dict(), b.state_dict()
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(far(one[name].double(), other[name].double()) for name in one)


def train(network: nn.Module, x: torch.Tensor, steps: int, student: bool = True) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    targets = torch.arange(len(x)) % CLASSES
    for _ in range(steps):
        logits, dynamic = both(network, x)
        loss = F.cross_entropy(dynamic, targets)
        optimizer.zero_grad()
        (loss + F.cross_entropy(logits, targets) if student else loss).backward()
        optimizer.step()


MODELS = ["everything", "gated", "vectors", "dscnn", "resnet8", "mlp", "mobilenetv2"]
training = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@training
@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("name", MODELS)
def test_growing_changes_nothing(name, ratio, branches, training) -> None:
    model, x = build(name).train(training), inputs(name)
    grown = grow(model, ratio, branches, noise=0)
    student, dynamic = both(grown, x)
    plain = model(x)
    assert plain.std(0).min() > 1e-3  # it does look at its input
    assert far(plain, dynamic) < 1e-5
    assert far(plain, student) < (1e-5 if ratio == 3 else 1e-30)
    widths = [p.numel() for p in grown.teacher.parameters()]
    assert sum(widths) > 1.5 * sum(p.numel() for p in model.parameters())


def test_noise_of_the_default_size_changes_little() -> None:
    model, x = build("everything").eval(), inputs("everything")
    student, dynamic = both(grow(model, 2, 3, noise=1e-6), x)
    assert 0 < far(model(x), dynamic) < 1e-4
    assert torch.equal(student, model(x))  # its own part has none


@pytest.mark.parametrize("noise", [0, 1e-6])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("ratio", "most"), [(2, 0.0), (4, 0.0), (3, 1.5e-6)])
def test_the_student_is_read_back(name, ratio, most, noise) -> None:
    model = build(name)
    back = grow(model, ratio, 3, noise).student()
    assert weights_apart(model, back) <= most
    assert type(back) is type(model)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_trained_is_merged_into_a_plain_student(name) -> None:
    model, x = build(name), inputs(name)
    grown = grow(model, 2, 4, noise=1e-6)
    train(grown.train(), x, 5)
    plain = grown.eval().student()
    assert far(plain(x), grown(x)) < 1e-5
    assert weights_apart(plain, model) > 1e-3  # of the same names and shapes, as it asserts
    assert not plain.training
    assert all(p.requires_grad and p.is_leaf for p in plain.parameters())
    train(grown.train(), x, 1)
    assert weights_apart(plain, grown.student()) > 0  # a copy, not a view


def test_growing_is_the_same_every_time_and_draws_nothing_of_ours() -> None:
    model = build("everything")
    before = torch.get_rng_state()
    first, second = grow(model, 2, 3, 1e-6), grow(model, 2, 3, 1e-6)
    assert torch.equal(before, torch.get_rng_state())
    assert weights_apart(first, second) == 0


def test_every_parameter_is_trained_once() -> None:
    grown = grow(build("everything"), 2, 3, 1e-6)
    parameters = list(grown.parameters())
    assert {id(p) for p in parameters} == {id(p) for p in grown.teacher.parameters()}
    train(grown, inputs("everything"), 1)
    assert all(p.grad is not None for p in parameters)


def test_branches_of_scale_zero_are_silent_but_can_wake_up() -> None:
    grown, x = grow(build("everything"), 2, 4, 0), inputs("everything")
    bare = grow(build("everything"), 2, 1, 0)
    assert torch.equal(both(grown, x)[1], both(bare, x)[1])
    F.cross_entropy(both(grown, x)[1], torch.arange(len(x)) % CLASSES).backward()
    found = [module for module in grown.modules() if isinstance(module, Branches)]
    assert len(found) == 3  # the 1x1 convolution has none
    for branches in found:
        assert all(kernel.grad.abs().max() == 0 for kernel in branches.kernels)
        assert branches.scales.grad.abs().amax(1).min() > 0


@pytest.mark.parametrize("size", [3, 5, 2])
def test_a_merged_kernel_is_the_sum_of_its_branches(size) -> None:
    """Against each branch run by itself."""
    torch.manual_seed(0)
    weight, x = torch.randn(4, 2, size, size), torch.randn(3, 2, 9, 9)
    branches = Branches(weight, 4, torch.Generator().manual_seed(0))
    branches.scales.data.normal_()
    point, mean, full = branches.kernels
    a, b, c = branches.scales.view(3, 4, 1, 1)
    low, high = (size - 1) // 2, size // 2
    inner = x[..., low : 9 - high, low : 9 - high]
    wanted = (
        F.conv2d(x, weight)
        + a * F.conv2d(inner, point)
        + b * F.avg_pool2d(F.conv2d(x, mean), size, 1)
        + c * F.conv2d(x, full)
    )
    assert far(F.conv2d(x, branches(weight)), wanted) < 1e-5


@pytest.mark.parametrize(("noise", "student", "low", "high"), [
    (0, False, 0.0, 0.0), (1e-6, False, 1e-7, 1.0), (0, True, 1e-3, 10.0),
])  # fmt: skip
def test_copies_stay_alike_unless_noise_or_the_student_parts_them(
    noise, student, low, high
) -> None:
    model, x = build("resnet8"), inputs("resnet8")
    grown = grow(model, 2, 1, noise)
    train(grown.train(), x, 50, student)
    assert low <= grown.replica_divergence() <= high


def test_a_step_moves_the_student_r_squared_times_as_far() -> None:
    """Where the columns of a weight were divided by r; elsewhere just as far."""
    model, x = build("everything"), inputs("everything")
    plain, grown = copy.deepcopy(model), grow(model, 2, 1, 0)
    targets = torch.arange(len(x)) % CLASSES
    for network in (plain, grown):
        F.cross_entropy(network(x), targets).backward()
        torch.optim.SGD(network.parameters(), 1e-3).step()
    before, one, other = (
        {name: p.detach() for name, p in m.named_parameters()}
        for m in (model, plain, grown.student())
    )
    moved = {n: float((other[n] - p).norm() / (one[n] - p).norm()) for n, p in before.items()}
    dense = {f"{name}.weight" for name in ("point", "body.0", "hidden", "head")}
    # The mean of a batch is taken off after these, so that nothing moves them.
    idle = {"stem.bias", "hidden.bias"}
    for name in before.keys() - idle:
        assert moved[name] == pytest.approx(4.0 if name in dense else 1.0, rel=2e-3), name


def test_both_networks_keep_statistics_of_their_own() -> None:
    grown, x = grow(build("resnet8"), 2, 3, 1e-6).train(), inputs("resnet8")
    own, teachers = (
        copy.deepcopy(dict(part.named_buffers())) for part in (grown.own, grown.teacher)
    )
    grown(x)
    assert all(torch.equal(teachers[n], b) for n, b in grown.teacher.named_buffers())
    changed = dict(grown.own.named_buffers())
    assert all(not torch.equal(own[name], buffer) for name, buffer in changed.items())
    own = copy.deepcopy(changed)
    grown.teacher(x)
    assert all(torch.equal(own[n], b) for n, b in grown.own.named_buffers())
    assert all(not torch.equal(teachers[n], b) for n, b in grown.teacher.named_buffers())
    assert int(grown.student().state_dict()["stem.1.num_batches_tracked"]) == 1


def test_the_student_follows_the_mode_of_the_network() -> None:
    """Also where modes are set one by one, as by whoever puts them back."""
    model, x = build("resnet8"), inputs("resnet8")
    grown = grow(model, 2, 1, 0).eval()
    assert torch.equal(grown(x), model.eval()(x))
    for module in grown.modules():
        module.training = True
    assert torch.equal(grown(x), model.train()(x))


def test_a_copy_of_the_network_stands_alone() -> None:
    grown, x = grow(build("everything"), 2, 3, 1e-6), inputs("everything")
    twin = copy.deepcopy(grown)
    train(grown, x, 2)
    assert weights_apart(grown, twin) > 0
    twin.load_state_dict(grown.state_dict())
    assert torch.equal(twin.eval()(x), grown.eval()(x))


def test_features_are_the_students_own() -> None:
    model, x = build("dscnn").eval(), inputs("dscnn")
    grown = grow(model, 2, 3, 0)
    logits, features = grown.forward_with_taps(x, ["stage2", DYNAMIC_TEACHER, "stem"])
    wanted, own = model.forward_with_taps(x, ["stem", "stage2"])
    assert grown.taps == model.taps
    assert torch.equal(logits, wanted)
    assert features.keys() == {"stem", "stage2", DYNAMIC_TEACHER}
    assert all(torch.equal(features[name], own[name]) for name in own)


def test_features_of_a_student_without_taps_are_refused() -> None:
    grown = grow(build("everything"), 2, 1, 0)
    with pytest.raises(TrainingError, match="layer 'stem' of Everything cannot be read"):
        grown.forward_with_taps(inputs("everything"), ["stem", DYNAMIC_TEACHER])


def test_a_student_apart_is_the_student_itself() -> None:
    model, x = build("dscnn"), inputs("dscnn")
    pair = Apart(model, grow(model, 2, 1, 0).teacher).eval()
    assert far(*both(pair, x)) < 1e-5
    assert torch.equal(pair(x), model(x))
    assert weights_apart(pair.student(), model) == 0


def test_the_plan_of_a_user_network() -> None:
    plan = plan_growth(build("everything"))
    assert plan["stem"] == Growth(inputs=False, outputs=True)
    assert plan["depthwise"] == plan["norm1"] == Growth(inputs=False, outputs=True)
    assert plan["point"] == plan["hidden"] == Growth(inputs=True, outputs=True)
    assert plan["head"] == Growth(inputs=True, outputs=False)
    assert list(plan)[:3] == ["stem", "norm", "depthwise"]


def net(run, **layers: nn.Module) -> nn.Module:
    """A network from its layers and what its forward does with them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in {**layers, "head": layers.get("head", nn.Linear(4, 3))}.items():
                setattr(self, name, layer)

        def forward(self, x):
            return run(self, x)

    return Net()


def pooled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.head(x.mean((2, 3)))


def stem() -> nn.Conv2d:
    return nn.Conv2d(1, 4, 3)


@pytest.mark.parametrize(("run", "layers", "named"), [
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))), {"mid": nn.Conv2d(4, 4, 1, groups=2)},
                 r"layer 'mid' \(Conv2d\): 2 groups of 4 channels", id="groups"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))),
                 {"mid": nn.PixelShuffle(2), "head": nn.Linear(1, 3)},
                 r"layer 'mid' \(PixelShuffle\)", id="pixel shuffle"),
    pytest.param(lambda m, x: pooled(m, torch.cat([m.stem(x), m.stem(x)], 1)),
                 {"head": nn.Linear(8, 3)}, r"cat\(\) in forward\(\)", id="concat"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))), {"mid": nn.GroupNorm(2, 4)},
                 r"layer 'mid' \(GroupNorm\)", id="group norm"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))), {"mid": nn.PReLU(4)},
                 r"layer 'mid' \(PReLU\)", id="prelu"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))), {"mid": nn.Softmax(1)},
                 r"layer 'mid' \(Softmax\)", id="softmax"),
    pytest.param(lambda m, x: pooled(m, m.stem(x) + m.mid),
                 {"mid": nn.Parameter(torch.ones(4, 1, 1))},
                 r"add\(\) in forward\(\): stem and mid are not replicated alike", id="positions"),
    pytest.param(lambda m, x: pooled(m, m.stem(x).flip(1)), {}, r"flip\(\) in forward", id="flip"),
    pytest.param(lambda m, x: pooled(m, m.stem(x)[:, :4]), {},
                 r"getitem\(\) in forward", id="slice"),
    pytest.param(lambda m, x: pooled(m, m.stem(x) / m.stem(x).shape[1]), {},
                 r"getitem\(\) in forward\(\): of a replicated tensor only the batch", id="width"),
    pytest.param(lambda m, x: pooled(m, m.stem(x) / m.stem(x).size(1)), {},
                 r"size\(\) in forward\(\)", id="size"),
    pytest.param(lambda m, x: m.head(m.stem(x).view(-1, 4 * 36)), {"head": nn.Linear(4 * 36, 3)},
                 r"view\(\) in forward\(\)", id="view"),
    pytest.param(lambda m, x: m.head(m.stem(x).mean(1).flatten(1)), {"head": nn.Linear(36, 3)},
                 r"mean\(\) in forward\(\): a mean over the channels", id="mean over channels"),
    pytest.param(lambda m, x: m.head(m.stem(x).flatten(2).transpose(1, 2)).mean(1), {},
                 r"transpose\(\) in forward\(\)", id="tokens"),
    pytest.param(lambda m, x: m.head(m.mid(x.flatten(2)).flatten(1)),
                 {"mid": nn.Linear(64, 64), "head": nn.Linear(64, 3)},
                 r"flatten\(\) in forward\(\): the number of axes", id="flattened tokens"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.mid(x))), {"mid": nn.Conv2d(1, 1, 3)},
                 r"layer 'mid' \(Conv2d\): it is used twice", id="twice"),
    pytest.param(lambda m, x: m.mid(m.stem(x).mean((2, 3))), {"mid": nn.BatchNorm1d(4)},
                 "no hidden layer that can grow", id="norm of the logits"),
    pytest.param(lambda m, x: m.head(x.flatten(1)), {"head": nn.Linear(64, 3)},
                 "no hidden layer that can grow", id="one layer"),
    pytest.param(lambda m, x: m.head(x.flatten(1)) if x.sum() > 0 else x, {},
                 "torch.fx cannot: TraceError", id="control flow"),
    pytest.param(lambda m, x: (pooled(m, m.stem(x)), x), {}, "the logits alone", id="two outputs"),
    pytest.param(lambda m, x: pooled(m, m.mid(m.stem(x))),
                 {"mid": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))},
                 r"layer 'mid' \(ParametrizedConv2d\)|torch.fx cannot", id="weight norm"),
])  # fmt: skip
def test_what_cannot_be_grown_is_named(run, layers, named) -> None:
    with pytest.raises(TrainingError, match=named) as caught:
        grow(net(run, **{"stem": stem(), **layers}), 2, 1, 0)
    assert caught.value.hint


def test_a_transformer_is_refused_by_name() -> None:
    spec = {"model": "transformer", "options": {"width": 8, "heads": 2}}
    model = build_model(spec, CLASSES, {"image": SHAPE}, Path())
    with pytest.raises(TrainingError, match=r"transpose\(\) in 'stem' \(ImagePatches\)"):
        grow(model, 2, 3, 1e-6)


def test_tied_weights_are_refused() -> None:
    model = net(lambda m, x: m.head(m.b(m.a(x.flatten(1)))), a=nn.Linear(64, 4), b=nn.Linear(4, 4),
                c=nn.Linear(4, 4))  # fmt: skip
    model.c.weight = model.b.weight
    with pytest.raises(TrainingError, match=r"tied weights: b\.weight, c\.weight"):
        grow(model, 2, 1, 0)


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, left, right):
            return left + right

    with pytest.raises(TrainingError, match="students of one input, not left, right"):
        grow(Two(), 2, 1, 0)


def test_branches_alone_need_a_convolution() -> None:
    model = build("dscnn").eval()
    grown = grow(model, 1, 3, 0)
    assert far(*both(grown, inputs("dscnn"))) == 0
    assert grown.plan == {}
    with pytest.raises(TrainingError, match="no convolution with a window"):
        grow(build("mlp"), 1, 3, 0)
