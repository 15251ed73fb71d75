"""What machine this is: the fingerprint that goes with every figure.

Reads /proc and /sys where they exist; what a machine does not tell is reported as "unavailable",
never guessed.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

UNAVAILABLE = "unavailable"
ROOT = Path("/")

FEATURES = {
    **{
        name: name
        for name in (
            "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw",
            "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
            "sve", "sve2", "i8mm", "bf16", "neon",
        )
    },
    "asimd": "neon",
    "asimddp": "neon_dotprod",
    "asimdhp": "neon_fp16",
}  # fmt: skip
"""Flags of /proc/cpuinfo that decide how fast and how exact a small net runs -> our name."""


def facts(root: Path = ROOT) -> dict[str, Any]:
    """Fingerprint of this machine, ready for JSON.

    Args:
        root: where `proc` and `sys` are; another folder describes another machine.

    Returns:
        CPU model, architecture, ISA features, cores, the quota of a container in CPUs, governor,
        frequency in megahertz, temperature in degrees Celsius, memory in bytes, load average of
        one, five and fifteen minutes, operating system, Python.
    """
    return {
        "cpu": _cpu_model(root),
        "architecture": platform.machine() or UNAVAILABLE,
        "isa_features": isa_features(root),
        "cores": _cores(root),
        "cpu_quota": _cpu_quota(root),
        "governor": _governor(root),
        "frequency_mhz": _frequency_mhz(root),
        "temperature_c": _temperature_c(root),
        "memory_bytes": _memory_bytes(root),
        "load_average": _load_average(root),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def isa_features(root: Path = ROOT) -> list[str]:
    """Instruction sets that matter to inference, sorted; empty where the machine tells none.

    The same int8 file may answer differently on a CPU without VNNI: accuracy belongs to these.
    """
    values = _cpuinfo(root, "flags") or _cpuinfo(root, "Features")
    flags = set(values[0].split()) if values else set()
    return sorted({FEATURES[flag] for flag in flags & FEATURES.keys()})


def _read(path: Path) -> str | None:
    """Content of a file, or None: on many machines most of these do not exist."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _first(paths: Sequence[Path]) -> str | None:
    return next((text for path in paths if (text := _read(path))), None)


def _cpuinfo(root: Path, key: str) -> list[str]:
    """Values of a key, one per processor that tells it."""
    pairs = (line.partition(":") for line in (_read(root / "proc/cpuinfo") or "").splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _cpu_model(root: Path) -> str:
    for key in ("model name", "Hardware", "Model"):
        if values := _cpuinfo(root, key):
            return values[0]
    if parts := _cpuinfo(root, "CPU part"):
        return f"Arm part {', '.join(sorted(set(parts)))}"
    return (platform.processor() if root == ROOT else "") or UNAVAILABLE


def _cores(root: Path) -> dict[str, int | str]:
    """Physical and logical cores, and how many of them this process may use."""
    logical = len(_cpuinfo(root, "processor")) or os.cpu_count() or UNAVAILABLE
    pairs = zip(_cpuinfo(root, "physical id"), _cpuinfo(root, "core id"), strict=False)
    physical = len(set(pairs)) or _physical_from_sys(root) or UNAVAILABLE
    if hasattr(os, "sched_getaffinity"):
        return {"physical": physical, "logical": logical, "usable": len(os.sched_getaffinity(0))}
    return {"physical": physical, "logical": logical, "usable": logical}


def _physical_from_sys(root: Path) -> int:
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology")
    return len({(_read(f / "physical_package_id"), _read(f / "core_id")) for f in folders})


def _cpu_quota(root: Path) -> float | str:
    """CPUs that the container may use on average; a quota stalls a process, it does not slow it."""
    quota, _, period = (_read(root / "sys/fs/cgroup/cpu.max") or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else UNAVAILABLE


def _governor(root: Path) -> str:
    found = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({text for path in found if (text := _read(path))})) or UNAVAILABLE


def _frequency_mhz(root: Path) -> float | str:
    """The fastest core's frequency now, as the kernel sees it."""
    found = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    kilohertz = [int(text) for path in found if (text := _read(path)) and text.isdigit()]
    if kilohertz:
        return max(kilohertz) / 1000
    values = _cpuinfo(root, "cpu MHz")
    return max(map(float, values)) if values else UNAVAILABLE


def _temperature_c(root: Path) -> float | str:
    """The hottest thermal zone."""
    found = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    degrees = [int(t) / 1000 for path in found if (t := _read(path)) and t.lstrip("-").isdigit()]
    return max(degrees) if degrees else UNAVAILABLE


def _memory_bytes(root: Path) -> int | str:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    if root == ROOT and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return UNAVAILABLE


def _load_average(root: Path) -> list[float] | str:
    if text := _read(root / "proc/loadavg"):
        return [float(value) for value in text.split()[:3]]
    return list(os.getloadavg()) if root == ROOT and hasattr(os, "getloadavg") else UNAVAILABLE
