#!/usr/bin/env bash
# Prepares a Debian or Ubuntu machine: `venv DIR` makes the virtual environment, `packages` installs what
# the lab and the tests use. Both do nothing where nothing is missing.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

on_debian() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    say "Installing: $*"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

a_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    say "Python 3.11 or newer is needed; install it and try again."
    exit 1
}

make_venv() {
    local place=$1 python
    python=$(a_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        on_debian || { say "Python's venv module is missing: install python3-venv."; exit 1; }
        install_packages python3-venv
    fi
    say "Making $place from constraints.txt (a minute the first time)"
    [ -x "$place/bin/python" ] || "$python" -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

packages() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io iptables)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    command -v ssh-agent >/dev/null || missing+=(openssh-client)
    command -v docker-compose >/dev/null || missing+=(docker-compose)
    command -v prometheus >/dev/null || missing+=(prometheus)
    command -v curl >/dev/null || missing+=(curl ca-certificates)
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v docker-registry >/dev/null || missing+=(docker-registry)
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
    command -v skopeo >/dev/null || missing+=(skopeo)
    command -v gpg-agent >/dev/null || missing+=(gpg gpg-agent)
    command -v rpmbuild >/dev/null || missing+=(rpm)
    command -v createrepo_c >/dev/null || missing+=(createrepo-c)
    command -v dnf >/dev/null || missing+=(dnf)
    [ ${#missing[@]} = 0 ] && return
    if on_debian; then
        install_packages "${missing[@]}"
    else
        say "Not installed: ${missing[*]}. What needs them is left out; as root, \`make setup\` installs them."
    fi
}

case "${1:-}" in
    venv) make_venv "$2" ;;
    packages) packages ;;
    *) say "usage: $0 venv DIR | packages"; exit 2 ;;
esac
