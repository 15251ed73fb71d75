"""The fingerprint, on this machine and on a synthetic arm64 phone."""

from __future__ import annotations

import json
import os
import platform
import sys

import pytest

from edgedistill.targets.local import LocalCpu
from edgedistill.targets.machine import UNAVAILABLE, facts, isa_features

PHONE = {
    "proc/cpuinfo": "".join(
        f"processor\t: {index}\nFeatures\t: fp asimd aes crc32 asimdhp asimddp i8mm\n"
        f"CPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for index, part in enumerate(["0xd05", "0xd05", "0xd0b"])
    ),
    "proc/meminfo": "MemTotal:        3900000 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.50 0.25 0.10 1/200 4242\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/class/thermal/thermal_zone1/temp": "38000\n",
    **{
        f"sys/devices/system/cpu/cpu{index}/{name}": value
        for index, (governor, khz) in enumerate(
            [("schedutil", "1800000"), ("schedutil", "1800000"), ("performance", "2400000")]
        )
        for name, value in {
            "cpufreq/scaling_governor": governor,
            "cpufreq/scaling_cur_freq": khz,
            "topology/physical_package_id": "0",
            "topology/core_id": str(index),
        }.items()
    },
}


@pytest.fixture
def phone(tmp_path):
    for name, text in PHONE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_phone(phone):
    found = facts(phone)
    assert found["cpu"] == "Arm part 0xd05, 0xd0b"
    assert found["isa_features"] == ["i8mm", "neon", "neon_dotprod", "neon_fp16"]
    assert found["cores"]["physical"] == found["cores"]["logical"] == 3
    assert found["governor"] == "performance, schedutil"
    assert found["frequency_mhz"] == 2400
    assert found["temperature_c"] == 41.5
    assert found["memory_bytes"] == 3_900_000 * 1024
    assert found["load_average"] == [0.5, 0.25, 0.1]
    assert found["cpu_quota"] == 1.5


def test_what_is_not_told_is_unavailable(tmp_path):
    found = facts(tmp_path)
    told = {"architecture", "isa_features", "cores", "os", "python"}
    assert {key for key, value in found.items() if value != UNAVAILABLE} == told
    assert found["isa_features"] == []


def test_hyper_threads_are_not_cores(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "".join(
            f"processor\t: {index}\nmodel name\t: A CPU\nphysical id\t: 0\ncore id\t: {index % 2}\n"
            "cpu MHz\t: 2100.5\nflags\t: fpu avx2 avx512_vnni rdrand\n\n"
            for index in range(4)
        )
    )
    found = facts(tmp_path)
    assert found["cores"]["physical"] == 2
    assert found["cores"]["logical"] == 4
    assert found["cpu"] == "A CPU"
    assert found["frequency_mhz"] == 2100.5
    assert isa_features(tmp_path) == ["avx2", "avx512_vnni"]


def test_this_machine():
    found = LocalCpu().facts()
    assert json.loads(json.dumps(found)) == found
    assert found["architecture"] == platform.machine()
    assert found["python"] == platform.python_version()
    if sys.platform.startswith("linux"):
        assert found["cores"]["usable"] == len(os.sched_getaffinity(0))
        assert found["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert found["isa_features"]
