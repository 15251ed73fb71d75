from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.pipeline.contracts import Description, Signature, TensorSpec
from edgedistill.pipeline.errors import StoreError
from edgedistill.pipeline.store import Damaged, Store, canonical, write_atomic

KEY = "k" * 64
ABOUT = Description("onnx", "int8", Signature((TensorSpec("x", (None, 3), "float32", "NC"),), ()))


def fill(store, key=KEY, content=b"weights"):
    out, _ = store.work_folders(key)
    (out / "sub").mkdir()
    (out / "sub" / "model.bin").write_bytes(content)
    (out / "parity.json").write_text("{}")
    return store.commit("export", key, ABOUT)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_an_artefact_comes_back_as_it_was_stored(store):
    made = fill(store)
    assert store.find("export", KEY) == made
    assert (made.kind, made.precision, made.signature) == ("onnx", "int8", ABOUT.signature)
    assert sorted(made.files) == ["parity.json", "sub/model.bin"]
    assert made.size_bytes == len(b"weights")
    assert store.find("export", "other") is None


def test_nothing_is_seen_before_commit(store):
    out, _ = store.work_folders(KEY)
    (out / "half").write_text("half")
    assert store.find("export", KEY) is None


def test_scratch_survives_and_out_does_not(store):
    out, scratch = store.work_folders(KEY)
    (out / "half").touch()
    (scratch / "checkpoint").touch()
    out, scratch = store.work_folders(KEY)
    assert list(out.iterdir()) == []
    assert (scratch / "checkpoint").exists()
    fill(store)
    assert not scratch.exists()


def test_the_digest_is_of_the_content_and_not_of_the_key(store):
    first, second = fill(store, "a"), fill(store, "b")
    assert first.digest == second.digest
    assert fill(store, "c", b"other").digest != first.digest


def change(folder):
    (folder / "sub" / "model.bin").write_bytes(b"weightz")


def lose(folder):
    (folder / "sub" / "model.bin").unlink()


def add(folder):
    (folder / "extra").touch()


def dangle(folder):
    lose(folder)
    (folder / "sub" / "model.bin").symlink_to("nowhere")


def edit_record(folder):
    path = folder / "artifact.json"
    path.write_text(path.read_text().replace('"int8"', '"fp16"'))


def truncate_record(folder):
    path = folder / "artifact.json"
    path.write_bytes(path.read_bytes()[:50])


def swap_record(folder):
    (folder / "artifact.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change, "sub/model.bin was changed"),
        (lose, "sub/model.bin is missing"),
        (add, "extra does not belong there"),
        (dangle, "sub/model.bin cannot be read"),
        (edit_record, "artifact.json was changed"),
        (truncate_record, "artifact.json cannot be read"),
        (swap_record, "artifact.json cannot be read"),
    ],
)
def test_damage_is_noticed_and_dropped(store, damage, named):
    artifact = fill(store)
    damage(artifact.root)
    with pytest.raises(Damaged, match=named):
        store.find("export", KEY)
    store.drop("export", KEY)
    assert store.find("export", KEY) is None
    assert fill(store).digest == artifact.digest


def test_an_artefact_under_another_key_is_refused(store):
    artifact = fill(store)
    artifact.root.rename(artifact.root.with_name("other"))
    with pytest.raises(Damaged, match="another schema"):
        store.find("export", "other")


def test_canonical_does_not_know_the_order_of_keys():
    assert canonical({"b": 1, "a": [1, {"d": 2, "c": 3}]}) == b'{"a":[1,{"c":3,"d":2}],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": float("nan")})


def test_a_file_where_a_folder_is_expected(tmp_path):
    (tmp_path / "runs").touch()
    store = Store(tmp_path / "runs" / ".store")
    for attempt in (lambda: store.work_folders(KEY), lambda: store.lock(KEY, list).__enter__()):
        with pytest.raises(StoreError, match="runs is a file") as caught:
            attempt()
        assert "--runs" in caught.value.hint


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a tiny file system")
    if (ended := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"mounting is not possible here: {ended.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tiny_disk):
    (tiny_disk / "old").write_bytes(b"old")
    with pytest.raises(StoreError, match="no disk space") as caught:
        write_atomic(tiny_disk / "old", bytes(1_000_000))
    assert "--runs" in caught.value.hint
    assert [(p.name, p.read_bytes()) for p in tiny_disk.iterdir()] == [("old", b"old")]


LIMITED = """
import resource, sys
from pathlib import Path
from edgedistill.pipeline.errors import StoreError
from edgedistill.pipeline.store import write_atomic
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), bytes(5000))
except StoreError as error:
    sys.exit(7)
"""


def test_a_file_that_may_not_grow(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    ended = subprocess.run([sys.executable, "-c", LIMITED, path], check=False)
    assert ended.returncode == 7
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


READ_ONLY = """
import os, sys
from pathlib import Path
from edgedistill.pipeline.errors import StoreError
from edgedistill.pipeline.store import Store
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Store(Path(sys.argv[1]) / "runs").work_folders("key")
except StoreError as error:
    assert "may not write" in error.message, error.message
    assert "--runs" in error.hint
    sys.exit(7)
"""


def test_a_folder_that_may_not_be_written(tmp_path):
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    ended = subprocess.run(
        [sys.executable, "-c", READ_ONLY, folder], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 7, ended.stderr
    assert list(folder.iterdir()) == []


def test_the_record_is_plain_json(store):
    record = json.loads((fill(store).root / "artifact.json").read_text())
    assert record["files"].keys() == {"parity.json", "sub/model.bin"}
    assert Path(record["stage"]).name == "export"
