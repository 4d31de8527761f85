"""Where a host's clean state lies: which files are recorded, which are only watched, which are never kept."""

from __future__ import annotations

# Accounts, keys and the right to become root: restored by the step `identity`.
IDENTITY = (
    "/etc/passwd",
    "/etc/group",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d",
    "/etc/ssh/ssh_config",
    "/etc/ssh/ssh_config.d",
    "/etc/pam.d",
    "/etc/security",
    "/etc/nsswitch.conf",
    "/etc/login.defs",
    "/etc/polkit-1/rules.d",
)
# Whatever starts by itself or changes how programs start: restored by the step `wipe`.
SYSTEM = (
    "/etc/systemd/system",
    "/etc/systemd/user",
    "/etc/systemd/system.conf.d",
    "/etc/systemd/system-generators",
    "/etc/systemd/system-shutdown",
    "/usr/local/lib/systemd",
    "/etc/init.d",
    "/etc/rc.local",
    *(f"/etc/rc{level}.d" for level in "0123456S"),
    "/etc/crontab",
    "/etc/anacrontab",
    "/etc/cron.allow",
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/var/spool/cron",
    "/var/spool/at",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/bash.bashrc",
    "/etc/bashrc",
    "/etc/environment",
    "/etc/skel",
    "/etc/ld.so.preload",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/udev/rules.d",
    "/etc/modules",
    "/etc/modules-load.d",
    "/etc/modprobe.d",
    "/etc/sysctl.conf",
    "/etc/sysctl.d",
    "/etc/tmpfiles.d",
    "/etc/docker",
    "/var/lib/systemd/linger",
    "/etc/exports",
    "/usr/local/bin",
    "/usr/local/sbin",
)
# Only names and hashes are kept: too many to restore, but nothing may be added or altered unseen.
WATCHED = ("/usr/lib/systemd/system", "/usr/lib/systemd/user", "/usr/lib/systemd/system-generators")
# Our own drop-ins come and go with the steps, spool counters move by themselves.
NEVER = (
    "/etc/ssh/sshd_config.d/00-ironyard-fence.conf",
    "/var/spool/cron/atjobs/.SEQ",
    "/var/spool/at/.SEQ",
)
# Written by mere use of an account: never part of the record, always wiped.
TRACES = (
    ".ansible",
    ".bash_history",
    ".cache",
    ".lesshst",
    ".mysql_history",
    ".node_repl_history",
    ".psql_history",
    ".python_history",
    ".sqlite_history",
    ".ssh/known_hosts",
    ".ssh/known_hosts.old",
    ".sudo_as_admin_successful",
    ".viminfo",
    ".wget-hsts",
    ".zsh_history",
)
