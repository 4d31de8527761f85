"""Whatever starts by itself: schedules, units, generators, rules, scripts at boot and shutdown."""

from __future__ import annotations

from tests.playbooks.residues import Residue, at, line

UNIT = "[Service]\nExecStart=/usr/bin/sleep 79001\n[Install]\nWantedBy=multi-user.target"
SCRIPT = "#!/bin/sh\nexec sleep 79002"

RESIDUES = (
    at("a job in cron.d", "cron", "/etc/cron.d/evil", "* * * * * root touch /tmp/by-cron"),
    line("a line in crontab", "cron", "/etc/crontab", "* * * * * root touch /tmp/by-crontab"),
    Residue("root's crontab", "cron", "echo '* * * * * true evil' | crontab -", "crontab -l | grep evil"),
    Residue(
        "a system account's crontab",
        "cron",
        "echo '* * * * * true evil' | crontab -u games -",
        "crontab -u games -l; ls /var/spool/cron/crontabs",
    ),
    at("an hourly script", "cron", "/etc/cron.hourly/evil", SCRIPT, more="chmod 755 /etc/cron.hourly/evil"),
    Residue(
        "a folder of cron that leads elsewhere",
        "cron",
        "mkdir /opt/weekly; mv /etc/cron.weekly /etc/.weekly; ln -s /opt/weekly /etc/cron.weekly",
        "find /etc/cron.weekly -maxdepth 0 -type l; ls -d /etc/.weekly /opt/weekly",
    ),
    at("who may use cron", "cron", "/etc/cron.allow", "games"),
    at("anacron", "cron", "/etc/anacrontab", "1 5 evil true"),
    Residue("an at job", "at", "echo 'touch /tmp/by-at' | at now + 3 days", "atq; ls /var/spool/cron/atjobs"),
    at("a system unit", "units", "/etc/systemd/system/evil.service", UNIT, more="systemctl enable evil"),
    at("a unit among the vendor's", "units", "/usr/lib/systemd/system/evil-vendor.service", UNIT),
    at("a unit below /usr/local", "units", "/usr/local/lib/systemd/system/evil-local.service", UNIT),
    at(
        "a unit in memory",
        "units",
        "/run/systemd/system/evil-run.service",
        UNIT,
        more="systemctl daemon-reload; systemctl start evil-run",
    ),
    Residue(
        "a timer that runs",
        "timers",
        "printf '[Timer]\\nOnCalendar=hourly\\n[Install]\\nWantedBy=timers.target\\n' "
        ">/etc/systemd/system/evil.timer; systemctl daemon-reload; systemctl enable --now evil.timer",
        "systemctl list-timers --all --no-legend | grep evil; ls /etc/systemd/system/*/evil.timer",
    ),
    at(
        "a unit that waits for a path", "units", "/etc/systemd/system/evil.path", "[Path]\nPathExists=/tmp/go"
    ),
    at("a socket unit", "units", "/etc/systemd/system/evil.socket", "[Socket]\nListenStream=7799"),
    at("a unit of every user", "units", "/etc/systemd/user/evil.service", UNIT),
    at("a unit in root's home", "units", "/root/.config/systemd/user/evil.service", UNIT),
    at("a drop-in for sshd", "units", "/etc/systemd/system/ssh.service.d/evil.conf", "[Service]\nNice=1"),
    at("a drop-in in memory", "units", "/run/systemd/system/cron.service.d/evil.conf", "[Service]\nNice=1"),
    at(
        "a drop-in for every service", "units", "/etc/systemd/system/service.d/evil.conf", "[Service]\nNice=1"
    ),
    Residue(
        "a masked platform unit",
        "units",
        "systemctl stop atd; ln -sf /dev/null /etc/systemd/system/atd.service; systemctl daemon-reload",
        "systemctl is-enabled atd | grep -v enabled; systemctl is-active atd | grep -v ^active",
    ),
    Residue(
        "a disabled platform unit",
        "units",
        "systemctl disable --now prometheus-node-exporter",
        "systemctl is-enabled prometheus-node-exporter | grep -v enabled; "
        "systemctl is-active prometheus-node-exporter | grep -v ^active",
    ),
    at("a preset", "units", "/etc/systemd/system-preset/00-evil.preset", "enable evil.service"),
    at("lingering", "units", "/var/lib/systemd/linger/games", ""),
    at("a generator", "generators", "/etc/systemd/system-generators/evil", SCRIPT),
    at("a generator among the vendor's", "generators", "/usr/lib/systemd/system-generators/evil", SCRIPT),
    at(
        "a generator of environments", "generators", "/etc/systemd/system-environment-generators/evil", SCRIPT
    ),
    at("a script at shutdown", "generators", "/usr/lib/systemd/system-shutdown/evil", SCRIPT),
    at("a script at sleep", "generators", "/usr/lib/systemd/system-sleep/evil", SCRIPT),
    at("tmpfiles", "tmpfiles", "/etc/tmpfiles.d/evil.conf", "f /tmp/by-tmpfiles"),
    at("tmpfiles among the vendor's", "tmpfiles", "/usr/lib/tmpfiles.d/evil.conf", "f /tmp/by-tmpfiles"),
    at("tmpfiles in memory", "tmpfiles", "/run/tmpfiles.d/evil.conf", "f /tmp/by-tmpfiles"),
    at("sysusers", "tmpfiles", "/etc/sysusers.d/evil.conf", "u evil - - /root /bin/bash"),
    at("a udev rule", "udev", "/etc/udev/rules.d/99-evil.rules", 'RUN+="/bin/true"'),
    at("a udev rule among the vendor's", "udev", "/usr/lib/udev/rules.d/99-evil.rules", 'RUN+="/bin/true"'),
    at("a udev rule in memory", "udev", "/run/udev/rules.d/99-evil.rules", 'RUN+="/bin/true"'),
    at("rc.local", "boot", "/etc/rc.local", SCRIPT, more="chmod 755 /etc/rc.local"),
    at("an init script", "boot", "/etc/init.d/evil", SCRIPT, more="ln -s ../init.d/evil /etc/rc2.d/S99evil"),
    at("a script after networking", "boot", "/etc/network/if-up.d/evil", SCRIPT),
    at("a dispatcher of NetworkManager", "boot", "/etc/NetworkManager/dispatcher.d/99-evil", SCRIPT),
    at("a script for leases", "boot", "/etc/dhcp/dhclient-exit-hooks.d/evil", SCRIPT),
    at("a service of D-Bus", "boot", "/usr/share/dbus-1/system-services/org.evil.service", "[D-BUS Service]"),
    at("a policy of D-Bus", "boot", "/etc/dbus-1/system.d/evil.conf", "<busconfig/>"),
    at("modules at boot", "kernel", "/etc/modules-load.d/evil.conf", "evil"),
    at("options of modules", "kernel", "/etc/modprobe.d/evil.conf", "install evil /bin/sh"),
    at("a kernel module's file", "kernel", "/usr/lib/modules/evil/extra/evil.ko"),
    at("kernel parameters", "kernel", "/etc/sysctl.d/99-evil.conf", "kernel.core_pattern = |/tmp/evil"),
    at("kernel parameters in memory", "kernel", "/run/sysctl.d/99-evil.conf", "kernel.panic = 1"),
    at("a binary format", "kernel", "/etc/binfmt.d/evil.conf", ":evil:M::evil::/tmp/evil:"),
    at("a file in /boot", "boot", "/boot/evil-initrd.img"),
    at("a boot menu entry", "boot", "/etc/grub.d/06_evil", SCRIPT),
    at("a hook of the initramfs", "boot", "/etc/initramfs-tools/hooks/evil", SCRIPT),
    line("a line in fstab", "boot", "/etc/fstab", "/evil /mnt none bind 0 0"),
    at("crypttab", "boot", "/etc/crypttab", "evil /dev/null"),
    at("a rotation's script", "boot", "/etc/logrotate.d/evil", "/tmp/x { postrotate true\nendscript }"),
    at("settings of a service", "boot", "/etc/default/evil", "X=1"),
    Residue("settings of cron", "boot", "echo 'EVIL=1' >>/etc/default/cron", "grep EVIL /etc/default/cron"),
    at(
        "settings of the journal", "boot", "/etc/systemd/journald.conf.d/evil.conf", "[Journal]\nStorage=none"
    ),
    at("settings of logind", "boot", "/run/systemd/logind.conf.d/evil.conf", "[Login]\nKillUserProcesses=no"),
)
