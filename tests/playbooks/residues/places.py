"""Data and tools left in every corner, under names that tools dislike."""

from __future__ import annotations

from tests.playbooks.residues import Residue, at

DEEP = """python3 -c '
import os
os.mkdir("/opt/deep")
os.chdir("/opt/deep")
for level in range(1500):
    os.mkdir("dddddddd")
    os.chdir("dddddddd")
open("bottom", "w").close()
'"""

RESIDUES = (
    *(
        at(f"a file in {folder}", "files", f"{folder}/evil-file")
        for folder in (
            "/opt",
            "/home",
            "/usr/src",
            "/usr/local/share",
            "/usr/lib",
            "/usr/share/doc",
            "/var/lib",
            "/var/cache",
            "/var/backups",
            "/var/local",
            "/var/opt",
            "/var/spool",
            "/var/lib/apt/lists",
            "/var/lib/prometheus/node-exporter",
            "/var/lib/systemd/timers",
            "/var/lib/sudo/lectured",
            "/var/crash",
            "/scratch/run",
            "/tmp/.X11-unix",
            "/var/tmp",
            "/dev/shm",
            "/evil-top-folder",
            "/var/www",
            "/usr/libexec",
            "/run",
            "/run/lock",
            "/dev",
        )
    ),
    at("a hidden folder at the top", "files", "/.evil/data"),
    at("a hidden folder in /dev", "files", "/dev/.evil/data"),
    at("a hidden folder in /run", "files", "/run/.evil/data"),
    at("mail", "spools", "/var/mail/root", "From eve"),
    at("a print job", "spools", "/var/spool/cups/d00001-001"),
    at("a mail queue", "spools", "/var/spool/postfix/deferred/evil"),
    at("a home of nobody", "files", "/home/gone/data", more="chown -R 4242:4242 /home/gone"),
    Residue(
        "files of an unknown owner",
        "files",
        "mkdir /var/lib/unknown; chown 4243 /var/lib/unknown",
        "find / -xdev -uid 4243",
    ),
    Residue(
        "a name with a new line", "names", "touch $'/etc/cron.d/ev\\nil'", "find /etc/cron.d -name 'ev*'"
    ),
    Residue(
        "a name that is no text",
        "names",
        "mkdir $'/opt/\\xff\\xfe'; touch $'/opt/\\xff\\xfe/\\x01'",
        "LC_ALL=C find /opt -name $'\\xff*'",
    ),
    Residue(
        "a name that looks like an option",
        "names",
        "cd /opt; touch -- '-rf' '--help' ' ' '...'",
        "ls -A /opt | grep -E '^(-rf|--help| |[.]{3})$'",
    ),
    Residue(
        "a name as long as can be",
        "names",
        "touch /opt/$(printf 'n%.0s' $(seq 255))",
        "ls /opt | grep nnnnnn",
    ),
    Residue("a deep tree", "odd", DEEP, "ls -d /opt/deep"),
    Residue("many files", "odd", "mkdir /opt/many; cd /opt/many; seq 3000 | xargs touch", "ls -d /opt/many"),
    Residue("a huge sparse file", "odd", "truncate -s 2T /opt/sparse", "ls -d /opt/sparse"),
    Residue("a pipe", "odd", "mkfifo /opt/pipe /etc/cron.d/pipe", "ls -d /opt/pipe /etc/cron.d/pipe"),
    Residue(
        "a socket",
        "odd",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/opt/socket\")'",
        "ls -d /opt/socket",
    ),
    Residue("a device outside /dev", "odd", "mknod /opt/disk b 8 0", "ls -d /opt/disk"),
    Residue("a device under another name", "odd", "mknod /dev/evil c 1 3", "ls -d /dev/evil"),
    Residue("a link that leads nowhere", "odd", "ln -s /nowhere /opt/nowhere", "find /opt -name nowhere"),
    Residue("a link in /dev", "odd", "ln -s /etc /dev/evil-link", "find /dev -maxdepth 1 -name evil-link"),
)
