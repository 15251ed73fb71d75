from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from edgedistill.pipeline.reporting.html import missing, render_html

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>$x^2$ {{ 7*7 }} &amp;'
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def rendered():
    """Renders once per report, for the tests that only read."""
    known = {}

    def render(report, latencies):
        key = json.dumps([report, latencies])
        if key not in known:
            known[key] = render_html(report, latencies)
        return known[key]

    return render


def test_page_is_well_formed_and_says_what_matters(report, latencies, rendered):
    text = Page(rendered(report, latencies)).text
    for words in ("All 3 goals met", "tflite-int8 was selected", "98.0 %", "142 µs", "31.7 kB",
                  "16.3x", "not distinguishable from the baseline", "Intel Xeon Platinum 8488C",
                  "wanted at most 60 kB", "noisy", "torch", "2.13.0"):  # fmt: skip
        assert words in text


def test_page_needs_nothing_from_outside(report, latencies, rendered):
    html = rendered(report, latencies)
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form", "a"}
    assert "http" not in html
    assert "@import" not in html
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_hostile_words_stay_words(report, latencies):
    report["failures"] = [{"stage": "export", "message": "no"}]
    clean = Page(render_html(report, latencies)).tags
    old = report["artifacts"][-1]["name"]
    report["failures"] = [{"stage": HOSTILE, "message": HOSTILE}]
    report["name"] = report["data"]["source"] = report["teacher"]["model"] = HOSTILE
    report["environment"]["cpu"]["model"] = HOSTILE
    report["artifacts"][-1]["format"] = report["artifacts"][-1]["worth_it"]["why"] = HOSTILE
    report["goals"][0].update(wanted=HOSTILE, got=HOSTILE)
    text = json.dumps(report).replace(f'"{old}"', json.dumps(HOSTILE))
    page = Page(render_html(json.loads(text), {HOSTILE: [1.0, 2.0], **latencies}))
    assert page.tags == clean
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count(HOSTILE) > 10


def test_failing_run_shows_failures_and_no_null(failing, latencies, rendered):
    page = Page(rendered(failing, latencies))
    assert "2 of 3 goals missed" in page.text
    assert "aten.roll has no TFLite lowering." in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.split()
    assert "baseline" not in page.text.replace("Teacher, student and baseline", "")


def test_renders_without_any_artefact(failing):
    failing.update(artifacts=[], attribution=[], goals=[])
    text = Page(render_html(failing, {})).text
    assert "No artefact could be evaluated" in text


def change_accuracy(report, latencies):
    report["artifacts"][-1]["accuracy"]["value"] = 0.7654


def change_latency(report, latencies):
    report["artifacts"][-1]["measurements"][0]["latency_ms"]["p50"] = 0.7654


def change_size(report, latencies):
    report["artifacts"][-1]["size_bytes"] = 76_540


@pytest.mark.parametrize(
    ("change", "figure"),
    [(change_accuracy, "76.5 %"), (change_latency, "765 µs"), (change_size, "76.5 kB")],
)
def test_figures_come_from_the_report(report, latencies, rendered, change, figure):
    assert figure not in Page(rendered(report, latencies)).text
    other = copy.deepcopy(report)
    change(other, latencies)
    assert Page(render_html(other, latencies)).text.count(figure) >= 2


def test_charts_come_from_history_and_latencies(report, latencies, rendered):
    before = rendered(report, latencies)
    report["student"]["history"][0]["validation_accuracy"] = 0.123
    assert render_html(report, latencies) != before
    latencies["onnx-int8"] = [2 * value for value in latencies["onnx-int8"]]
    assert render_html(report, latencies) != render_html(report, {})


def test_every_target_gets_its_chart(report, latencies):
    for artifact in report["artifacts"]:
        artifact["measurements"].append({**artifact["measurements"][0], "target": "android"})
    html = render_html(report, latencies)
    assert "Accuracy against latency on android" in html
    assert 'id="tradeoff-1"' in html


RENDER = """
import hashlib, json, sys
from edgedistill.pipeline.reporting.html import render_html
assert "matplotlib" not in sys.modules
html = render_html(*json.load(sys.stdin))
assert "matplotlib.pyplot" not in sys.modules
print(hashlib.sha256(html.encode()).hexdigest())
"""


def test_another_process_writes_the_same_bytes(report, latencies, rendered):
    given = json.dumps([report, latencies])
    command = [sys.executable, "-c", RENDER]
    found = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    here = hashlib.sha256(rendered(report, latencies).encode()).hexdigest()
    assert found.stdout.strip() == here


BLOCKED = """
import sys
sys.modules["matplotlib"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "matplotlib" else find(name)
from edgedistill.pipeline.errors import MissingDependency
from edgedistill.pipeline.reporting import html
try:
    html.render_html({}, {})
except MissingDependency as error:
    print(error)
"""


def test_a_missing_library_gives_the_pip_line():
    assert missing() is None
    command = [sys.executable, "-c", BLOCKED]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "matplotlib" in found.stdout
    assert "pip install 'edgedistill[report]'" in found.stdout
