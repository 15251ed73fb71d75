"""Recipes of int8: each gives a file that really is int8 and still answers like the model."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.exporters._mixed import ENOUGH_DB, SHARE, greedy, output_sqnr_db

from .conftest import KINDS, load_exporter, sealed

RECIPES = [(k, r) for k in KINDS for r in load_exporter(k).recipes.get("int8", ())]
MIN_SQNR_DB = 10.0  # a moving average clips, as ai-edge-quantizer does by default


@pytest.mark.parametrize(("kind", "recipe"), RECIPES)
def test_a_recipe_keeps_the_signal(make, run, cases, tmp_path, kind, recipe) -> None:
    case, source = cases["cnn"], make(kind, "cnn")
    signature = load_exporter(kind).convert(source, "int8", case.feeds, tmp_path, recipe)
    got = run(sealed(kind, "int8", tmp_path, signature), case.feeds).results["logits"]
    assert MIN_SQNR_DB <= output_sqnr_db([case.expected["logits"]], [got]) < 70


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_recipe_is_what_is_taken_unseen(make, cases, tmp_path, kind) -> None:
    exporter, case = load_exporter(kind), cases["cnn"]
    exporter.convert(make(kind, "cnn"), "int8", case.feeds, tmp_path, exporter.recipes["int8"][0])
    unseen = make(kind, "cnn", "int8")
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (unseen.root / file.name).read_bytes()


def network(noise: dict[str, float]):
    """Answers of a make-believe network: each layer in int8 adds its own noise to the output."""
    signal, rng = np.ones((4, 3)), np.random.default_rng(0)
    shapes = {name: rng.standard_normal(signal.shape) for name in noise}

    def answers(kept) -> list[np.ndarray]:
        if kept == "fp32":
            return [signal]
        return [signal + sum(noise[n] * shapes[n] for n in noise if n not in kept)]

    return list(noise), answers


def test_the_layers_that_hurt_the_output_are_put_back_first() -> None:
    quiet = {f"quiet{i}": 1e-3 for i in range(10)}
    layers, answers = network({"first": 0.1, **quiet, "second": 0.3})
    assert greedy(layers, tuple, answers, "fp32") == ["second", "first"]


def test_nothing_is_put_back_where_the_output_is_good() -> None:
    layers, answers = network({"a": 1e-3, "b": 1e-3})
    assert output_sqnr_db(answers("fp32"), answers(())) > ENOUGH_DB
    assert greedy(layers, tuple, answers, "fp32") == []


def test_at_most_a_share_of_the_layers_is_put_back() -> None:
    layers, answers = network({f"layer{i}": 0.5 for i in range(12)})
    assert len(greedy(layers, tuple, answers, "fp32")) <= SHARE * 12
