"""The lab itself: hosts as containers that boot systemd, kept over repeated `up`."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path

from tests.lab import fleet as fleets
from tests.lab import images, network
from tests.lab.engine import Engine
from tests.lab.run import LabError, run, say

READY_SECONDS = 90.0
OPTIONS = (
    "--stop-signal=SIGRTMIN+3",
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    "--cap-add=LINUX_IMMUTABLE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--cgroupns=host",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
)


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    port: int
    user: str
    key_file: str
    region: str
    labels: dict[str, str]
    fresh: bool
    host_key: str

    def json(self) -> str:
        return json.dumps(asdict(self))


class Lab:
    """One lab: a state directory, and a prefix that names its network and hosts."""

    def __init__(self, state_dir: Path, prefix: str = "lab") -> None:
        self.state = state_dir
        self.prefix = prefix
        self.engine = Engine(state_dir)
        self.key_file = state_dir / "id_ed25519"

    def ensure_engine(self) -> str:
        return self.engine.ensure()

    def ensure_image(self) -> str:
        self.ensure_engine()
        return images.ensure()

    def ensure_key(self) -> str:
        """The public half of the key that opens every host of this lab."""
        if not self.key_file.exists():
            self.state.mkdir(parents=True, exist_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ironyard-lab", "-f", str(self.key_file))
        return self.key_file.with_suffix(".pub").read_text().strip()

    def up(self, fleet: list[fleets.Described] | None = None) -> list[Host]:
        """Every host of the fleet, running and open to ssh; those that run already are left as they are."""
        image = self.ensure_image()
        self.ensure_key()
        subnet = network.ensure(self.prefix)
        described = fleets.load() if fleet is None else fleet
        numbers = range(1, len(described) + 1)
        names = [f"{self.prefix}-{number}" for number in numbers]
        addresses = [network.address(subnet, number) for number in numbers]
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(self._up, names, described, repeat(image), addresses))

    def _up(self, name: str, described: fleets.Described, image: str, address: str) -> Host:
        before = _inspect(name, "{{.State.Running}} {{.Config.Image}}").split()
        if not before:
            self._create(name, described, image, address)
        elif before[1] != image:
            say(f"{name} was made from an older image; `down` and `up` renew it")
        if before[:1] != ["true"]:
            run("docker", "start", name)
            say(f"{name} started at {address}")
        return Host(
            name=name,
            address=address,
            port=22,
            user="root",
            key_file=str(self.key_file),
            region=described.region,
            labels=described.labels,
            fresh=not before,
            host_key=self._ready(name, address),
        )

    def _create(self, name: str, described: fleets.Described, image: str, address: str) -> None:
        run(
            "docker",
            "create",
            f"--name={name}",
            f"--hostname={name}",
            f"--network={self.prefix}",
            f"--ip={address}",
            f"--label=ironyard.lab={self.prefix}",
            f"--volume={name}-docker:/var/lib/docker",
            *OPTIONS,
            image,
        )
        gpus = json.dumps(described.gpus(name), indent=1)
        run("docker", "cp", "-", f"{name}:/", stdin=_personal(gpus, self.ensure_key()))

    def _ready(self, name: str, address: str) -> str:
        """Waits until the host has booted and lets us in; its public ed25519 host key."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            booted = run(
                "docker", "exec", name, "systemctl", "is-system-running", "--wait", check=False
            ).strip()
            if booted in ("running", "degraded") and self._enters(address):
                key = run("docker", "exec", name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
                return " ".join(key.split()[:2])
            time.sleep(0.3)
        raise LabError(
            f"{name} did not let us in by ssh within {READY_SECONDS:.0f} s; see `docker logs {name}`."
        )

    def ssh(self, address: str) -> list[str]:
        """The start of a command line that runs something on a host of this lab."""
        options = (
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        )
        return [
            "ssh",
            *(f"-o{o}" for o in (*options, "ConnectTimeout=5")),
            "-i",
            str(self.key_file),
            f"root@{address}",
        ]

    def _enters(self, address: str) -> bool:
        return not subprocess.run([*self.ssh(address), "true"], capture_output=True, check=False).returncode

    def exec(self, name: str, *argv: str, check: bool = True) -> str:
        """What a program on the host prints, run from outside and not over ssh. Raises LabError."""
        return run("docker", "exec", name, *argv, check=check)

    def tell(self, name: str, *fault: str) -> str:
        """Makes the host's GPUs misbehave, or heals them; see `nvidia-sim --help` on the host."""
        return self.exec(name, "nvidia-sim", *fault)

    def names(self) -> list[str]:
        found = run(
            "docker", "ps", "-a", "--filter", f"label=ironyard.lab={self.prefix}", "--format", "{{.Names}}"
        )
        return sorted(found.split())

    def status(self) -> list[dict[str, str]]:
        if not self.engine.answers():
            return []
        shape = '{{.State.Status}} {{.Config.Image}} {{(index .NetworkSettings.Networks "%s").IPAddress}}'
        rows = []
        for name in self.names():
            state, image, *address = _inspect(name, shape % self.prefix).split()
            rows.append({"name": name, "state": state, "image": image, "address": " ".join(address)})
        return rows

    def down(self, *, everything: bool = False) -> None:
        """Removes the hosts; `everything` also the network, the images and the engine this lab started.

        Images and engine stay while another lab's hosts need them.
        """
        alone = True
        if self.engine.answers():
            if names := self.names():
                run("docker", "rm", "-f", "-v", *names)
                run("docker", "volume", "rm", *(f"{name}-docker" for name in names), check=False)
            if everything:
                network.remove(self.prefix)
            others = run(
                "docker", "ps", "-a", "--filter", "label=ironyard.lab", "--format", "{{.Names}}"
            ).split()
            alone = not others
            if everything and alone:
                images.remove_all()
            elif everything:
                say(f"images and engine stay for {', '.join(sorted(others))}")
        if everything and alone:
            self.engine.stop()


def _inspect(name: str, template: str) -> str:
    return run("docker", "container", "inspect", "--format", template, name, check=False).strip()


def _personal(gpus: str, public_key: str) -> bytes:
    """What makes a host itself: its GPUs and who may enter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directory = tarfile.TarInfo("root/.ssh")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(directory)
        for name, text, mode in (
            ("etc/nvidia-sim/gpus.json", gpus, 0o644),
            ("root/.ssh/authorized_keys", public_key + "\n", 0o600),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), mode
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()
