from __future__ import annotations

import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

from edgedistill.pipeline.reporting import charts, figures


def texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def test_every_chart_is_drawn_and_is_well_formed(drawn):
    assert [chart.name for chart in drawn] == [
        "tradeoff-0", "waterfall", "hops", "latencies", "sizes", "curves",
        "diagnostic-0",
    ]  # fmt: skip
    for chart in drawn:
        root = ElementTree.fromstring(chart.svg)
        assert root.get("role") == "img"
        assert "metadata" not in chart.svg


def test_a_methods_diagnostic_shows_its_lines_and_labels(report):
    (figure,) = report["student"]["figures"]
    found = texts(charts.line_chart(figure, "x"))
    assert {"pass rate p", "% of samples", "first epoch", "last epoch"} <= set(found)
    assert charts.line_chart({**figure, "series": {"nothing": [[], []]}}, "x") == ""


def test_ids_do_not_clash_between_charts(drawn):
    ids = [
        node.get("id")
        for chart in drawn
        for node in ElementTree.fromstring(chart.svg).iter()
        if node.get("id")
    ]
    assert len(ids) == len(set(ids))


def test_references_lead_to_ids_of_the_same_chart(drawn):
    for chart in drawn:
        ids = {node.get("id") for node in ElementTree.fromstring(chart.svg).iter()}
        links = chart.svg.split('href="#')[1:] + chart.svg.split("url(#")[1:]
        assert {link.replace(")", '"').split('"')[0] for link in links} <= ids


def test_tradeoff_names_every_artefact_the_teacher_and_the_goals(report):
    found = texts(charts.accuracy_latency(report, "cpu"))
    for artifact in report["artifacts"]:
        assert artifact["name"] in found
    assert {"teacher 98.7 %", "accuracy goal", "latency goal"} <= set(found)
    report["goals"] = []
    assert not {"accuracy goal", "latency goal"} & set(
        texts(charts.accuracy_latency(report, "cpu"))
    )


def test_tradeoff_rings_the_selected(report):
    ringed = charts.accuracy_latency(report, "cpu")
    report["selected"] = None
    assert charts.accuracy_latency(report, "cpu").count("<path") == ringed.count("<path") - 1


def test_latency_axis_is_logarithmic_from_a_factor_of_ten():
    with figures.styled("axis"):
        axes = figures.new_figure(4, 3).add_subplot()
        figures.latency_axis(axes, [0.1, 0.9])
        assert axes.get_xscale() == "linear"
        figures.latency_axis(axes, [0.1, 1.1])
        assert axes.get_xscale() == "log"


def test_labels_neither_overlap_nor_leave_the_axes():
    with figures.styled("labels"):
        figure = figures.new_figure(9, 5)
        axes = figure.add_subplot()
        spots = [(1 + 0.001 * place, 1.0) for place in range(7)]
        axes.scatter(*zip(*spots, strict=True))
        axes.set_xlim(0, 2)
        figures.place_labels(axes, spots, [f"artefact-{place}" for place in range(7)])
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        frame = axes.get_window_extent()
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_waterfall_goes_from_the_teacher_to_the_selected(report):
    found = texts(charts.accuracy_waterfall(report))
    assert {"98.7 %", "98.0 %", "-0.5", "-0.2", "teacher → student", "tflite-int8"} <= set(found)


def test_curves_show_parts_of_a_loss_only_where_there_are_several(report):
    found = texts(charts.learning_curves(report))
    assert {"teacher", "student", "baseline", "student: labels", "student: teacher"} <= set(found)
    assert not any(text.startswith("baseline:") for text in found if text)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 40, [0.0, 0.5, 0.5], [0.1, 1.0, 1000.0]])
def test_distributions_survive_odd_samples(report, values):
    svg = charts.latency_distributions(report, {"onnx-int8": values})
    assert "onnx-int8" in texts(svg)
    assert "nan" not in svg


def test_distributions_put_the_teacher_first_and_strangers_last(report, latencies):
    found = texts(charts.latency_distributions(report, {"custom": [1.0, 2.0], **latencies}))
    names = [text for text in found if text in {"custom", "teacher", "onnx-fp32"}]
    assert names == ["teacher", "onnx-fp32", "custom"]


def test_charts_without_figures_are_left_out(failing):
    failing.update(artifacts=[], attribution=[])
    failing["student"].update(history=[], figures=[])
    assert not any(charts.draw_charts(failing, {}).values())


def test_sizes_show_the_goal_only_where_there_is_one(report):
    assert "size goal" in texts(charts.file_sizes(report))
    report["goals"] = []
    found = texts(charts.file_sizes(report))
    assert "size goal" not in found
    assert found.count("31.7 kB") == 3


def test_the_settings_of_the_user_neither_leak_in_nor_change(report):
    import matplotlib

    before = charts.file_sizes(report)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        assert charts.file_sizes(report) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_density_peaks_where_the_samples_are():
    from edgedistill.pipeline.reporting.distributions import _density

    edges = np.geomspace(0.1, 10, 161)
    found = _density(np.random.default_rng(0).normal(1.0, 0.02, 500), edges)
    assert found.max() == 1.0
    assert edges[found.argmax()] == pytest.approx(1.0, rel=0.05)
