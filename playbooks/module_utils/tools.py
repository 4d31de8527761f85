"""The host's own programs that reclaim runs: which files they are, with every library and link on the way."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from typing import Any

from ansible.module_utils.steps import SEARCH_PATH, run

# What the modules call, what lets us in, and what starts everything else.
COMMANDS = (
    "apt-get", "bash", "blkdiscard", "cat", "chattr", "cryptsetup", "dash", "dd", "dmsetup", "docker",
    "dnf", "dpkg", "dpkg-query", "env", "head", "ip", "ip6tables-nft-restore", "ip6tables-nft-save",
    "ipcrm", "ipset", "iptables-legacy-save", "iptables-nft-restore", "iptables-nft-save", "iptables-save",
    "journalctl", "kmod", "loginctl", "losetup", "lsattr", "lsblk", "lsof", "mdadm", "mkdir", "mkfs.ext4",
    "mkfs.xfs", "modinfo", "mount", "mv", "nft", "nvidia-smi", "nvme", "pgrep", "podman", "python3",
    "rmmod", "rpm", "runuser", "setfattr", "sh", "ssh-keygen", "sshd", "su", "sudo", "swapoff", "systemctl",
    "tc", "umount", "vgchange", "wipefs", "zsh",
)  # fmt: skip
OTHERS = (
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-logind",
    "/usr/lib/openssh/sftp-server",
    "/usr/lib/openssh/sshd-session",
    "/usr/libexec/openssh/sshd-session",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib*/security/*.so",
    "/usr/lib/*/security/*.so",
    "/usr/lib*/libnss_*.so*",
    "/usr/lib/*/libnss_*.so*",
    "/usr/lib*/libnvidia-ml.so*",
    "/usr/lib/*/libnvidia-ml.so*",
)
TREES = ("/etc/python3*", "/usr/lib/python3*", "/usr/lib64/python3*", "/usr/local/lib/python3*")
# Read before the first line of ours runs, by the loader, PAM, sshd or the shell.
STARTUP = ("/etc/ld.so.preload", "/etc/ld.so.cache", "/etc/environment", "/etc/bash.bashrc", "/etc/bashrc",
           "/etc/zshenv", "/etc/zsh/zshenv", "/etc/ssh/sshrc", "/etc/security/pam_env.conf")  # fmt: skip
HOME_STARTUP = (".bashrc", ".zshenv", ".ssh/rc", ".ssh/environment", ".pam_environment")
LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def record(homes: dict[str, str]) -> dict[str, Any]:
    """Paths only, since the index has what they hold: ``files`` are real paths, ``links`` lead there."""
    files: set[str] = set()
    own = sorted(set(homes.values()))
    links = {path for path in ("/bin", "/sbin", "/lib", "/lib64") if os.path.islink(path)}
    found = [shutil.which(name, path=SEARCH_PATH) for name in COMMANDS]
    start = [path for path in found if path] + [p for pattern in OTHERS for p in glob.glob(pattern)]
    for path in [*start, sys.executable]:
        follow(path, files, links)
    for path in [library for file in sorted(files) for library in libraries(file)]:
        follow(path, files, links)
    return {
        "files": sorted(files),
        "links": sorted(links),
        "chattr": chattr(),
        "trees": sorted(path for pattern in TREES for path in glob.glob(pattern) if os.path.isdir(path)),
        "startup": [
            *STARTUP,
            *(f"{home}/{name}" for home in own for name in HOME_STARTUP),
        ],
    }


def follow(path: str, files: set[str], links: set[str]) -> None:
    """Add the file that a path means, and every link on the way."""
    for _ in range(40):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not os.path.islink(path):
            break
        links.add(path)
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    if os.path.isfile(path):
        files.add(path)


def chattr() -> dict[str, str]:
    """The program that frees immutable files, its loader and libraries: by name the real path."""
    program = shutil.which("chattr", path=SEARCH_PATH)
    if program is None:
        return {}
    loaded = {os.path.basename(path): os.path.realpath(path) for path in libraries(program)}
    return {"chattr": os.path.realpath(program), **loaded}


def libraries(file: str) -> list[str]:
    """What the loader would load for a program; nothing for scripts and static programs."""
    return LIBRARY.findall(run("ldd", file, timeout=20).out)
