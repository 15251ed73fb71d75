"""What every installed method must keep; a new one inherits this suite by its entry point."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedistill.pipeline import plugins
from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.models.build import build_model

METHODS = sorted(e.name for e in entry_points(group="edgedistill.methods"))
N, C = 6, 3


def student() -> nn.Module:
    torch.manual_seed(0)
    spec = {"model": "dscnn", "options": {"width": 4}}
    return build_model(spec, C, {"image": (1, 8, 8)}, Path())


@pytest.fixture(params=METHODS)
def method(request):
    kind = plugins.method(request.param)
    assert kind.name == request.param
    return kind(kind.Options())


def step(method, model: nn.Module) -> tuple[dict[str, torch.Tensor], nn.Module | None]:
    torch.manual_seed(1)
    helpers = method.helpers(model)
    logits = model(torch.randn(N, 1, 8, 8))
    teacher = torch.randn(N, C) if method.needs.teacher else None
    batch = Batch(logits, teacher, torch.arange(N) % C, 0, 0.0)
    return dict(method.loss(batch, helpers)), helpers


def test_it_can_be_listed_without_torch() -> None:
    code = (
        "import sys; from edgedistill.pipeline import plugins;"
        f"found = [plugins.method(n) for n in {METHODS}];"
        "assert all(m.summary and m.Options.model_json_schema() for m in found);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_it_says_what_it_is(method) -> None:
    assert 10 < len(method.summary) < 100
    assert method.name == "none" or any(word.isdigit() for word in method.citation.split())
    assert "Options of" in (method.Options.__doc__ or "")


def test_the_loss_is_finite_fp32_scalars_that_reach_the_student(method) -> None:
    model = student()
    parts, helpers = step(method, model)
    assert parts
    assert all(p.dtype == torch.float32 and p.shape == () and p.isfinite() for p in parts.values())
    sum(parts.values()).backward()
    trained = [*model.parameters(), *(helpers.parameters() if helpers else ())]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_the_same_batch_gives_the_same_loss(method) -> None:
    first, second = (step(method, student())[0] for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_finished_student_is_bare(method) -> None:
    model = student()
    step(method, model)
    finished = method.finish(model)
    assert finished.state_dict().keys() == student().state_dict().keys()
    for module in finished.modules():
        assert [k for k, v in vars(module).items() if k.endswith("_hooks") and v] == []
