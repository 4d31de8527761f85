"""Which stand-in packages there are and what lies in them.

The hardware (GPUs, PCI bus, the simulator behind nvidia-smi) belongs to the image, not to a package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
DRIVER = "595.80"  # what the simulator's nvidia-smi says
TOOLKIT = "1.18.1"
DCGM = "4.5.2"
EXPORTER = "4.8.2"
SIMULATOR = "/usr/lib/nvidia-sim"

PIN = """\
Package: nvidia-driver-cuda nvidia-kernel-open-dkms nvidia-fabricmanager
Pin: version {branch}.*
Pin-Priority: 1000
"""
UNIT = """\
[Unit]
Description={description}
After={after}

[Service]
ExecStart={start}
{more}
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Package:
    """``files`` are contents by path, ``links`` targets by path; ``script`` runs after unpacking."""

    name: str
    version: str
    depends: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    script: str = ""
    debian: str = ""
    rpm: str = ""

    @property
    def debian_version(self) -> str:
        return f"{self.version}-{self.debian or '1'}"

    @property
    def rpm_release(self) -> str:
        return self.rpm or "1"


def unit(description: str, start: str, *, after: str = "network.target", more: str = "") -> bytes:
    return UNIT.format(description=description, start=start, after=after, more=more).encode()


def program(name: str) -> bytes:
    return (PROGRAMS / name).read_bytes()


def driver(version: str = DRIVER) -> list[Package]:
    """Driver and kernel module of one version, with the package that holds its branch."""
    branch = version.split(".", maxsplit=1)[0]
    return [
        Package(
            f"nvidia-driver-pinning-{branch}",
            branch,
            files={f"/etc/apt/preferences.d/nvidia-{branch}": PIN.format(branch=branch).encode()},
        ),
        Package("nvidia-kernel-open-dkms", version),
        Package(
            "nvidia-driver-cuda",
            version,
            depends=(f"nvidia-kernel-open-dkms (= {version}-1)",),
            files={"/usr/share/nvidia-sim/driver": f"{version}\n".encode()},
            links={"/usr/bin/nvidia-smi": f"{SIMULATOR}/nvidia_smi.py"},
        ),
        Package(
            "nvidia-fabricmanager",
            version,
            files={
                "/usr/bin/nv-fabricmanager": program("daemon"),
                "/usr/lib/systemd/system/nvidia-fabricmanager.service": unit(
                    "NVIDIA fabric manager (stand-in)", "/usr/bin/nv-fabricmanager"
                ),
            },
        ),
    ]


def toolkit() -> list[Package]:
    return [
        Package(
            "nvidia-container-toolkit-base", TOOLKIT, files={"/usr/bin/nvidia-ctk": program("nvidia-ctk")}
        ),
        Package(
            "nvidia-container-toolkit",
            TOOLKIT,
            depends=("nvidia-container-toolkit-base",),
            files={"/usr/bin/nvidia-container-runtime": program("nvidia-container-runtime")},
        ),
    ]


def dcgm() -> list[Package]:
    return [
        Package(
            "datacenter-gpu-manager-4-core",
            DCGM,
            files={
                "/usr/bin/nv-hostengine": program("daemon"),
                "/usr/lib/systemd/system/nvidia-dcgm.service": unit(
                    "NVIDIA DCGM service (stand-in)", "/usr/bin/nv-hostengine -n"
                ),
            },
            links={"/usr/bin/dcgmi": f"{SIMULATOR}/dcgmi.py"},
        ),
        Package("datacenter-gpu-manager-4-cuda13", DCGM, depends=("datacenter-gpu-manager-4-core",)),
        Package(
            "datacenter-gpu-manager-exporter",
            EXPORTER,
            depends=("datacenter-gpu-manager-4-core",),
            files={
                "/usr/bin/dcgm-exporter": program("dcgm-exporter"),
                "/etc/dcgm-exporter/default-counters.csv": b"DCGM_FI_DEV_GPU_TEMP, gauge, Temperature\n",
                "/usr/lib/systemd/system/nvidia-dcgm-exporter.service": unit(
                    "NVIDIA DCGM exporter (stand-in)",
                    "/usr/bin/dcgm-exporter -f /etc/dcgm-exporter/default-counters.csv",
                    after="nvidia-dcgm.service",
                    more="StandardOutput=append:/var/dcgm-exporter.log\n",
                ),
            },
        ),
    ]


def engine(folder: str) -> list[Package]:
    """Docker under the distribution's name, around programs that lie in a folder of the host."""
    programs = ("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "ctr", "runc")
    return [
        Package(
            "docker.io",
            "20.10.24",
            files={
                "/usr/lib/systemd/system/docker.service": unit(
                    "Docker (stand-in)", "/usr/bin/dockerd", more="Delegate=yes\n"
                )
            },
            links={f"/usr/bin/{name}": f"{folder}/{name}" for name in programs},
        )
    ]


def distribution(kernel: str) -> list[Package]:
    """What the distribution itself would offer."""
    return [
        Package(f"linux-headers-{kernel}", "1"),
        Package(
            "prometheus-node-exporter",
            "1.5.0",
            files={
                "/usr/bin/prometheus-node-exporter": program("daemon"),
                "/usr/lib/systemd/system/prometheus-node-exporter.service": unit(
                    "Node exporter (stand-in)", "/usr/bin/prometheus-node-exporter"
                ),
            },
        ),
    ]


def vendor() -> list[Package]:
    """What the lab's image carries, so that enrolling a lab host fetches nothing."""
    return [*driver(), *toolkit(), *dcgm()]
