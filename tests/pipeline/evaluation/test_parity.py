from __future__ import annotations

import numpy as np
import pytest

from edgedistill.pipeline.contracts import PRECISIONS, Signature, TensorSpec
from edgedistill.pipeline.errors import ParityError
from edgedistill.pipeline.evaluation.parity import (
    GOLDEN_TOLERANCES,
    TOLERANCES,
    check_signature,
    compare,
)

WANTED = np.array([[4.0, 0.0, 1.0], [0.0, 2.0, 1.0]], np.float32)


def compared(got, precision="fp32", wanted=WANTED):
    return compare(f"onnx-{precision}", precision, {"logits": wanted}, {"logits": got})


def test_equal_outputs():
    parity = compared(WANTED.copy())
    assert (parity.max_abs, parity.sqnr_db, parity.agreement, parity.samples) == (0, 999, 1, 2)


def test_figures_by_hand():
    got = WANTED.copy()
    got[0, 1] = 0.2  # noise 0.04 under a signal of 16 + 1 + 4 + 1 = 22
    parity = compared(got, "int8")
    assert parity.max_abs == pytest.approx(0.2)
    assert parity.sqnr_db == pytest.approx(10 * np.log10(22 / 0.04), abs=1e-3)
    assert parity.agreement == 1
    assert parity.to_json()["tolerance"]["sqnr_db"] == TOLERANCES["int8"].sqnr_db


def test_an_error_names_output_sample_and_element():
    got = WANTED.copy()
    got[1, 2] = 1.5
    with pytest.raises(ParityError) as caught:
        compared(got)
    told = caught.value.message
    assert "onnx-fp32 does not answer like its source" in told
    assert "output 'logits', sample 1, element [2] is 1.5, expected 1" in told
    assert "export.formats" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_finite_never_passes(value, precision):
    got = WANTED.copy()
    got[1, 0] = value
    with pytest.raises(ParityError, match=r"sample 1, element \[0\]"):
        compared(got, precision)


def test_other_classes_fail_even_int8():
    with pytest.raises(ParityError, match="agreement"):
        compared(WANTED[::-1].copy(), "int8")


@pytest.mark.parametrize(
    ("noise_db", "precision", "passes"),
    [(81, "fp32", True), (79, "fp32", False), (31, "fp16", True), (29, "fp16", False),
     (11, "int8", True), (9, "int8", False)],
)  # fmt: skip
def test_the_tolerance_of_every_precision(noise_db, precision, passes):
    generator = np.random.default_rng(0)
    wanted = np.eye(10, dtype=np.float32)[generator.integers(0, 10, 500)] * 8
    noise = generator.choice([-1.0, 1.0], wanted.shape)
    got = wanted + noise * np.sqrt((wanted**2).mean() / 10 ** (noise_db / 10))
    if passes:
        parity = compared(got.astype(np.float32), precision, wanted)
        assert parity.sqnr_db == pytest.approx(noise_db, abs=0.01)
    else:
        with pytest.raises(ParityError):
            compared(got.astype(np.float32), precision, wanted)


def test_a_tie_within_the_noise_is_no_disagreement():
    wanted = np.array([[5.0, 5.0000001], [9.0, 0.0]], np.float32)
    got = np.array([[5.00001, 5.0], [9.0, 0.0]], np.float32)
    assert compared(got, "fp32", wanted).agreement == 1


@pytest.mark.parametrize(
    "got", [WANTED[:1], WANTED.astype(np.float64), WANTED[:, :2]], ids=["batch", "dtype", "classes"]
)
def test_other_shape_or_dtype(got):
    with pytest.raises(ParityError, match=r"output 'logits' is .* expected float32"):
        compared(got)


def test_an_output_that_is_missing():
    with pytest.raises(ParityError, match=r"no output 'logits', it gives \['other'\]"):
        compare("onnx-fp32", "fp32", {"logits": WANTED}, {"other": WANTED})
    with pytest.raises(ParityError, match="no output to compare"):
        compare("onnx-fp32", "fp32", {}, {})


def test_the_worst_of_several_outputs_counts():
    got = WANTED.copy()
    got[0, 1] = 0.2
    reference = {"a": WANTED, "b": WANTED}
    assert compare("x", "int8", reference, {"a": WANTED, "b": got}).max_abs == pytest.approx(0.2)


def test_every_precision_has_its_tolerances_and_they_widen():
    assert TOLERANCES.keys() == GOLDEN_TOLERANCES.keys() == set(PRECISIONS)
    falling = [TOLERANCES[p].sqnr_db for p in PRECISIONS]
    assert falling == sorted(falling, reverse=True)


def signature(name="x", shape=(None, 3), dtype="float32", output="logits"):
    inputs = (TensorSpec(name, shape, dtype),)
    return Signature(inputs, (TensorSpec(output, (None, 10), "float32"),))


@pytest.mark.parametrize("shape", [(None, 3), (1, 3)])
def test_a_free_axis_may_become_fixed(shape):
    check_signature(signature(), signature(shape=shape), "onnx-fp32")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "y"}, r"inputs are \['y'\], expected \['x'\]"),
        ({"output": "out"}, r"outputs are \['out'\], expected \['logits'\]"),
        ({"shape": (None, 4)}, r"input 'x' is float32\[None, 4\], expected float32\[None, 3\]"),
        ({"shape": (None, 3, 1)}, "input 'x'"),
        ({"dtype": "int8"}, "input 'x' is int8"),
    ],
)
def test_other_signatures(change, told):
    with pytest.raises(ParityError, match=told):
        check_signature(signature(), signature(**change), "onnx-fp32")


def test_a_fixed_axis_may_not_become_free():
    with pytest.raises(ParityError):
        check_signature(signature(shape=(1, 3)), signature(), "onnx-fp32")
