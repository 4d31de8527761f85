"""Whom the host trusts and where it finds others: certificates, packages, names, libraries, engines."""

from __future__ import annotations

from tests.playbooks.residues import Residue, at, line

PEM = "-----BEGIN CERTIFICATE-----\nZXZpbA==\n-----END CERTIFICATE-----"
PACKAGE = r"""
mkdir -p /var/tmp/deb/DEBIAN /var/tmp/deb/opt/evil-package
cd /var/tmp/deb/DEBIAN
printf 'Package: evil-package\nVersion: 1\nArchitecture: all\n' >control
printf 'Maintainer: eve\nDescription: evil\n' >>control
printf '#!/bin/sh\ntouch /root/by-postinst\n' >/var/tmp/deb/DEBIAN/postinst
printf '#!/bin/sh\ntouch /root/by-prerm; exit 1\n' >/var/tmp/deb/DEBIAN/prerm
chmod 755 /var/tmp/deb/DEBIAN/postinst /var/tmp/deb/DEBIAN/prerm
echo evil >/opt/evil-file; cp /opt/evil-file /var/tmp/deb/opt/evil-package/file
dpkg-deb -b /var/tmp/deb /var/tmp/evil.deb && dpkg -i /var/tmp/evil.deb
"""

RESIDUES = (
    at("a certificate of the site's", "certificates", "/usr/local/share/ca-certificates/evil.crt", PEM),
    line(
        "a certificate in the bundle",
        "certificates",
        "/etc/ssl/certs/ca-certificates.crt",
        "ZXZpbCBidW5kbGU=",
    ),
    at("a trusted certificate", "certificates", "/etc/ssl/certs/evil.pem", PEM),
    Residue(
        "a certificate by its hash",
        "certificates",
        "ln -s /opt/evil.pem /etc/ssl/certs/deadbeef.0",
        "ls -d /etc/ssl/certs/deadbeef.0",
    ),
    Residue(
        "a distrusted authority",
        "certificates",
        "rm -r /usr/share/ca-certificates/mozilla",
        "test -d /usr/share/ca-certificates/mozilla || echo gone",
    ),
    line("which authorities are trusted", "certificates", "/etc/ca-certificates.conf", "evil.crt"),
    at("anchors of the RHEL family", "certificates", "/etc/pki/ca-trust/source/anchors/evil.pem", PEM),
    Residue(
        "a settings file of OpenSSL",
        "certificates",
        "echo '# evil' >>/etc/ssl/openssl.cnf",
        "grep evil /etc/ssl/openssl.cnf",
    ),
    at("a key for packages", "packages", "/etc/apt/trusted.gpg.d/evil.gpg"),
    at(
        "a source of packages",
        "packages",
        "/etc/apt/sources.list.d/evil.list",
        "deb [trusted=yes] file:/opt/evil x main",
    ),
    at(
        "a hook of apt", "packages", "/etc/apt/apt.conf.d/99evil", 'DPkg::Post-Invoke {"touch /tmp/by-apt";};'
    ),
    at("a preference of apt", "packages", "/etc/apt/preferences.d/evil", "Package: *"),
    at("a hook of dpkg", "packages", "/etc/dpkg/dpkg.cfg.d/evil", "post-invoke=touch /tmp/by-dpkg"),
    at(
        "a script of a package that is installed",
        "packages",
        "/var/lib/dpkg/info/cron.preinst.evil",
        "#!/bin/sh",
    ),
    line("a changed script of a package", "packages", "/var/lib/dpkg/info/cron.prerm", "touch /tmp/by-prerm"),
    line("changed sums of a package", "packages", "/var/lib/dpkg/info/cron.md5sums", "0 evil"),
    at("a plug-in of dnf", "packages", "/etc/dnf/plugins/evil.conf", "[main]\nenabled=1"),
    at("a repository of the RHEL family", "packages", "/etc/yum.repos.d/evil.repo", "[evil]"),
    at("a hook for new kernels", "packages", "/etc/kernel/postinst.d/zz-evil", "#!/bin/sh"),
    Residue(
        "an installed package",
        "packages",
        PACKAGE,
        "dpkg -l evil-package | grep '^i'; ls -d /opt/evil-package /opt/evil-file; ls /root/by-*",
    ),
    Residue(
        "a removed package",
        "packages",
        "dpkg --purge --force-all less",
        "command -v less >/dev/null || echo gone; dpkg-query -W -f '${Status}' less | grep -v 'ok installed'",
    ),
    Residue(
        "a held package",
        "packages",
        "echo 'cron hold' | dpkg --set-selections",
        "dpkg --get-selections | grep hold",
    ),
    line("a name in hosts", "names", "/etc/hosts", "203.0.113.9 evil-registry"),
    line("a resolver", "names", "/etc/resolv.conf", "nameserver 203.0.113.9"),
    Residue("the host's name on disk", "names", "echo evil-name >/etc/hostname", "grep evil /etc/hostname"),
    line("names of services", "names", "/etc/services", "evil 7799/tcp"),
    at(
        "a connection of NetworkManager",
        "names",
        "/etc/NetworkManager/system-connections/evil.nmconnection",
        "[connection]",
    ),
    at("settings of NetworkManager", "names", "/etc/NetworkManager/conf.d/evil.conf", "[main]\ndns=none"),
    at("a network of systemd", "names", "/etc/systemd/network/10-evil.network", "[Match]\nName=evil"),
    at("netplan", "names", "/etc/netplan/99-evil.yaml", "network: {}"),
    at("interfaces", "names", "/etc/network/interfaces.d/evil", "iface evil inet manual"),
    at(
        "settings of the resolver",
        "names",
        "/etc/systemd/resolved.conf.d/evil.conf",
        "[Resolve]\nDNS=203.0.113.9",
    ),
    Residue(
        "a library loaded everywhere",
        "libraries",
        "cp /usr/lib/x86_64-linux-gnu/libutil.so.1 /usr/lib/libevil.so; echo /usr/lib/libevil.so "
        ">/etc/ld.so.preload",
        "ls -d /etc/ld.so.preload /usr/lib/libevil.so; grep -l libevil /proc/[0-9]*/maps",
    ),
    at(
        "a path for libraries",
        "libraries",
        "/etc/ld.so.conf.d/00-evil.conf",
        "/opt/evil-libraries",
        more="mkdir -p /opt/evil-libraries; ldconfig",
    ),
    Residue(
        "a library that shadows another",
        "libraries",
        "cp /usr/lib/x86_64-linux-gnu/libutil.so.1 /usr/local/lib/libcap.so.2; ldconfig",
        "ls /usr/local/lib/libcap.so.2; ldconfig -p | grep /usr/local/lib/libcap",
    ),
    Residue(
        "an alternative",
        "libraries",
        "ln -sf /opt/evil-awk /etc/alternatives/awk",
        "readlink /etc/alternatives/awk | grep evil",
    ),
    Residue(
        "settings of Docker",
        "engines",
        """echo '{"insecure-registries":["203.0.113.9"]}' >/etc/docker/daemon.json""",
        "grep 203 /etc/docker/daemon.json; docker info | grep 203.0.113.9",
    ),
    at("certificates of a registry", "engines", "/etc/docker/certs.d/evil/ca.crt", PEM),
    at("settings of containerd", "engines", "/etc/containerd/evil.toml", "version = 2"),
    at("settings of podman", "engines", "/etc/containers/registries.conf.d/evil.conf", "x"),
    at("a network plug-in", "engines", "/opt/cni/bin/evil", "#!/bin/sh"),
    at("a file in Docker's storage", "engines", "/var/lib/docker/evil/data"),
    at("an OCI hook", "engines", "/usr/share/containers/oci/hooks.d/evil.json", "{}"),
)
