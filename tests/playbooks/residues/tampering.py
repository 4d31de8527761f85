"""The platform's own files changed, removed, locked or led elsewhere."""

from __future__ import annotations

from tests.playbooks.residues import Residue, at, line

# the clean copy of a file
OBJECT = "find /var/lib/ironyard/pristine -name $(sha256sum {} | cut -c1-32)"

RESIDUES = (
    Residue(
        "a program that was replaced",
        "programs",
        "cp /bin/true /usr/bin/who",
        "cmp -s /bin/true /usr/bin/who && echo same",
    ),
    Residue(
        "a program that became a script",
        "programs",
        "rm /usr/bin/uptime; printf '#!/bin/sh\\n' >/usr/bin/uptime; chmod 755 /usr/bin/uptime",
        "head -c 2 /usr/bin/uptime | grep '#!'",
    ),
    Residue(
        "a program that is gone", "programs", "rm /usr/bin/free", "command -v free >/dev/null || echo gone"
    ),
    Residue(
        "a program that became a link", "programs", "ln -sf /opt/evil /usr/bin/pmap", "readlink /usr/bin/pmap"
    ),
    Residue(
        "a program that became a folder",
        "programs",
        "rm /usr/bin/pwdx; mkdir /usr/bin/pwdx; touch /usr/bin/pwdx/x",
        "test -d /usr/bin/pwdx && echo folder",
    ),
    Residue(
        "the platform's agent replaced while it runs",
        "programs",
        "mv /usr/sbin/cron /usr/sbin/cron.old; cp /usr/bin/sleep /usr/sbin/cron",
        "ls -d /usr/sbin/cron.old; cmp -s /usr/bin/sleep /usr/sbin/cron && echo same; readlink "
        "/proc/$(pidof -s cron)/exe | grep -v '^/usr/sbin/cron$'",
    ),
    Residue(
        "a truncated library",
        "programs",
        "truncate -s 100 /usr/lib/x86_64-linux-gnu/libnuma.so.1.*",
        "find /usr/lib/x86_64-linux-gnu/libnuma.so.1.* -type f -size -2",
    ),
    Residue(
        "a changed library",
        "programs",
        "printf evil >>/usr/lib/x86_64-linux-gnu/libutil.so.1",
        "tail -c 4 /usr/lib/x86_64-linux-gnu/libutil.so.1 | grep evil",
    ),
    Residue(
        "a folder of the platform's that is gone",
        "programs",
        "rm -r /usr/share/perl5",
        "test -d /usr/share/perl5 || echo gone",
    ),
    line("a changed module of Python", "programs", "/usr/lib/python3.11/this.py", "import evil"),
    Residue(
        "poisoned bytecode",
        "programs",
        "printf evil >>/usr/lib/python3.11/__pycache__/$(ls /usr/lib/python3.11/__pycache__ | "
        "grep ^base64.cpython)",
        "tail -qc 4 /usr/lib/python3.11/__pycache__/base64.cpython* | grep evil",
    ),
    at("bytecode without a source", "programs", "/usr/lib/python3.11/__pycache__/evil.cpython-311.pyc"),
    Residue(
        "a vendor's unit changed",
        "programs",
        "echo '# evil' >>/usr/lib/systemd/system/cron.service",
        "grep evil /usr/lib/systemd/system/cron.service",
    ),
    Residue(
        "a vendor's unit gone",
        "programs",
        "rm /usr/lib/systemd/system/rescue.service",
        "test -e /usr/lib/systemd/system/rescue.service || echo gone",
    ),
    Residue(
        "a set-uid bit", "rights", "chmod 4755 /usr/bin/python3.11", "find /usr/bin/python3.11 -perm /6000"
    ),
    Residue(
        "a set-uid shell",
        "rights",
        "cp /bin/bash /usr/local/bin/rootbash; chmod 6755 /usr/local/bin/rootbash",
        "find / -xdev -name rootbash",
    ),
    Residue(
        "a set-uid bit that is gone", "rights", "chmod u-s /usr/bin/sudo", "find /usr/bin/sudo ! -perm -4000"
    ),
    Residue("a capability", "rights", "setcap cap_setuid+ep /usr/bin/perl", "getcap /usr/bin/perl"),
    Residue("an owner", "rights", "chown games /usr/bin/top", "find /usr/bin/top -user games"),
    Residue(
        "a folder open to all",
        "rights",
        "chmod 1777 /etc/cron.daily",
        "find /etc/cron.daily -maxdepth 0 -perm -002",
    ),
    Residue("an open root", "rights", "chmod 777 /", "find / -maxdepth 0 -perm -002"),
    Residue(
        "the groups' passwords gone",
        "rights",
        "mv /etc/gshadow /opt/gshadow",
        "find /etc/gshadow -group shadow -perm 640 | grep -q . || echo gone; "
        "grep -q ^sudo: /etc/gshadow || echo gone",
    ),
    Residue("an ACL", "attributes", "setfacl -m u:games:rw /etc/passwd", "getfacl -cs /etc/passwd"),
    Residue(
        "a default ACL", "attributes", "setfacl -d -m u:games:rwx /etc/cron.d", "getfacl -cs /etc/cron.d"
    ),
    Residue("an xattr", "attributes", "setfattr -n user.evil -v 1 /usr/bin/w", "getfattr -d /usr/bin/w"),
    Residue(
        "a locked file of the platform's",
        "attributes",
        "chattr +i /etc/issue",
        "lsattr /etc/issue | cut -d' ' -f1 | grep i",
    ),
    Residue(
        "an append-only file of the platform's",
        "attributes",
        "echo evil >>/etc/profile; chattr +a /etc/profile",
        "lsattr /etc/profile | cut -d' ' -f1 | grep a",
    ),
    Residue(
        "changed and locked accounts",
        "attributes",
        "echo 'mallet:x:1666:1666::/:/bin/sh' >>/etc/passwd; chattr +i /etc/passwd",
        "getent passwd mallet; lsattr /etc/passwd | cut -d' ' -f1 | grep i",
    ),
    Residue(
        "a locked folder of the platform's",
        "attributes",
        "touch /etc/cron.monthly/evil; chattr +i /etc/cron.monthly",
        "ls /etc/cron.monthly/evil; lsattr -d /etc/cron.monthly | cut -d' ' -f1 | grep i",
    ),
    Residue(
        "locked files in locked folders",
        "attributes",
        "mkdir -p /opt/locked/a/b; touch /opt/locked/a/b/c; chattr +i /opt/locked/a/b/c; chattr "
        "+a /opt/locked/a/b; chattr +i /opt/locked/a /opt/locked",
        "ls -d /opt/locked",
    ),
    Residue(
        "a locked key of the tenant's",
        "attributes",
        "mkdir -p /usr/games/.ssh2; touch /usr/games/.ssh2/k; chattr +i /usr/games/.ssh2/k",
        "ls -d /usr/games/.ssh2",
    ),
    Residue(
        "a locked temporary file",
        "attributes",
        "touch /tmp/locked; chattr +i /tmp/locked",
        "ls -d /tmp/locked",
    ),
    Residue(
        "a hard link to a program",
        "links",
        "ln /usr/bin/sudo /usr/local/bin/sudo-link",
        "ls /usr/local/bin/sudo-link",
    ),
    Residue(
        "a hard link to the passwords", "links", "ln /etc/shadow /etc/shadow-link", "ls /etc/shadow-link"
    ),
    Residue(
        "a folder that became a link",
        "links",
        "cp -a /etc/profile.d /opt/profile.d; rm -r /etc/profile.d; ln -s /opt/profile.d /etc/profile.d",
        "test -L /etc/profile.d && echo link; ls -d /opt/profile.d",
    ),
    Residue(
        "a changed clean copy",
        "store",
        f"f=$({OBJECT.format('/etc/issue.net')}); chmod 600 $f; echo evil >>$f",
        "find /var/lib/ironyard/pristine -type f -perm 600",
    ),
    at("a foreign clean copy", "store", "/var/lib/ironyard/pristine/ev/evil"),
    Residue(
        "a missing clean copy",
        "store",
        f"{OBJECT.format('/etc/debian_version')} -delete",
        f"{OBJECT.format('/etc/debian_version')} | grep -q . || echo gone",
    ),
    at("a file beside the clean copies", "store", "/var/lib/ironyard/evil"),
    Residue(
        "the machine's identity",
        "programs",
        "rm -f /var/lib/dbus/machine-id; echo 0123456789abcdef0123456789abcdef >/var/lib/dbus/machine-id",
        "grep 0123456789abcdef0123 /var/lib/dbus/machine-id",
    ),
)
