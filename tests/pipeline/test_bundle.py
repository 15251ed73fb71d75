from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile

import pytest

from edgedistill.pipeline.bundle import MANIFEST, SUMS, open_bundle, pack
from edgedistill.pipeline.errors import BundleError


def manifest(**changes):
    return {"schema": 1, "name": "x", "default": "onnx-fp32", "artifacts": [], "labels": ["a"],
            "preprocessing": {}, "passed": True, **changes}  # fmt: skip


def files(**changes):
    return {
        MANIFEST: json.dumps(manifest(**changes)).encode(),
        "models/onnx-fp32/model.onnx": b"some weights",
        "golden/targets.npy": b"some labels",
    }


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "x.edge.zip"

    def to_file(content):
        path.write_bytes(content)
        return path

    return to_file


def reseal(body_with_seal):
    """What a forger would do: a seal that fits."""
    body = body_with_seal[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def forge(entries):
    """An archive of (name, content) with sums and a seal that fit."""
    lines = (f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in entries)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in [*entries, (SUMS, "".join(lines).encode())]:
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = b"0" * 64
    return reseal(stream.getvalue())


def refused(path):
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_gives_back_what_was_packed(write, tmp_path):
    bundle = open_bundle(write(pack(files())))
    assert {k: v for k, v in bundle.files.items() if k != SUMS} == files()
    bundle.extract(tmp_path / "out")
    assert (tmp_path / "out/models/onnx-fp32/model.onnx").read_bytes() == b"some weights"


def test_the_bytes_depend_on_the_content_alone():
    backwards = dict(reversed(files().items()))
    assert pack(files()) == pack(backwards)
    assert pack(files()) != pack(files(name="y"))


def test_every_single_changed_byte_is_noticed(write):
    """Every byte: content, local headers, central directory, end record and seal."""
    sound = pack(files())
    for position in range(len(sound)):
        for mask in (0x01, 0x80):
            changed = bytearray(sound)
            changed[position] ^= mask
            refused(write(bytes(changed)))


def test_a_change_in_a_file_names_the_file(write):
    sound = pack(files())
    for name, content in files().items():
        start = sound.index(content)
        for position in (start, start + len(content) - 1):
            changed = bytearray(sound)
            changed[position] ^= 0x04
            assert f"{name} was changed" in refused(write(bytes(changed)))


def test_a_file_that_was_changed_by_a_careful_hand(write):
    entries = list(files().items())
    sound = forge(entries)
    assert open_bundle(write(sound)).manifest["name"] == "x"
    crc = struct.pack("<I", zipfile.crc32(b"some weights"))
    other = struct.pack("<I", zipfile.crc32(b"evil weights"))
    changed = reseal(sound.replace(b"some weights", b"evil weights").replace(crc, other))
    assert "models/onnx-fp32/model.onnx was changed" in refused(write(changed))


@pytest.mark.parametrize("cut", [1, 64, 100, 0.5, 0.01])
def test_truncated(write, cut):
    sound = pack(files())
    size = len(sound) - cut if isinstance(cut, int) else int(len(sound) * cut)
    refused(write(sound[:size]))


def test_something_appended(write):
    refused(write(pack(files()) + b"x"))


def test_no_zip_and_no_file(write, tmp_path):
    assert "not a readable bundle" in refused(write(b"words"))
    assert "No such file" in refused(tmp_path / "gone.edge.zip")
    assert "directory" in refused(tmp_path)


def test_a_zip_that_is_no_bundle(write):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "SHA256SUMS is missing" in refused(write(stream.getvalue()))


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/abs", "C:\\x", "c:/x", "a\\..\\x", "models/../../x"]
)
def test_a_path_that_leaves_the_folder(write, name):
    assert "leaves the bundle's folder" in refused(
        write(forge([*files().items(), (name, b"evil")]))
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice(write):
    entries = [*files().items(), (MANIFEST, b"{}")]
    assert "stands twice" in refused(write(forge(entries)))


def test_a_missing_and_an_added_file(write):
    entries = list(files().items())
    whole = forge(entries)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        sums = archive.read(SUMS)

    def rebuilt(kept):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in [*kept, (SUMS, sums)]:
                archive.writestr(name, content)
            archive.comment = b"0" * 64
        return reseal(stream.getvalue())

    assert "golden/targets.npy is missing" in refused(write(rebuilt(entries[:-1])))
    added = [*entries, ("extra.py", b"evil")]
    assert "extra.py does not belong" in refused(write(rebuilt(added)))


def test_a_compressed_entry_is_refused(write):
    """A bundle is stored as it is: nothing in it can swell to fill the memory."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
        archive.comment = b"0" * 64
    assert "zeros was changed" in refused(write(reseal(stream.getvalue())))


def test_a_newer_schema(write):
    told = refused(write(pack(files(schema=2))))
    assert "schema is 2" in told
    assert "upgrade" in told


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"schema": 1}', b'{"schema": "1"}'])
def test_a_manifest_that_is_none(write, content):
    refused(write(pack({**files(), MANIFEST: content})))
