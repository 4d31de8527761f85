"""What runs, is mounted, is held in the kernel, in the network or in an engine: no file tree shows it."""

from __future__ import annotations

from tests.playbooks.residues import Residue, at

BASE = "$(sed -n 's/^0::\\(.*\\)init.scope/\\1/p' /proc/1/cgroup)"
TREE = f"$(findmnt -n -o TARGET -t cgroup2 | tail -1){BASE}"
IMAGE = (
    "tar -C / -c usr/bin/sleep lib64 usr/lib64 usr/lib/x86_64-linux-gnu/libc.so.6 "
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 lib | docker import - {}"
)


def running(name: str, plant: str, mark: str) -> Residue:
    """A process that is known by its arguments."""
    return Residue(name, "processes", plant, f"pgrep -af -- '{mark}' | grep -v pgrep")


def mounted(name: str, plant: str, point: str) -> Residue:
    return Residue(name, "mounts", plant, f"grep -c ' {point} ' /proc/1/mountinfo | grep -v '^0$'")


def parameter(name: str, path: str, evil: str) -> Residue:
    """A sysctl of this host alone, set through the read-only /proc/sys of a container."""
    plant = f"cat {path} >/var/tmp/was-$(basename {path}); mount -o remount,rw /proc/sys; echo {evil} >{path}"
    return Residue(name, "sysctl", plant, f"grep -x '{evil}' {path}")


PROCESSES = (
    running(
        "a process deaf to SIGTERM",
        "setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 72001; done' &",
        "sleep 72001",
    ),
    running("a stopped process", "setsid sleep 72002 & sleep 0.2; kill -STOP $!", "sleep 72002"),
    running(
        "a process under a kernel thread's name",
        "setsid bash -c 'exec -a [kworker/9:9] sleep 72003' &",
        "kworker/9:9. 72003",
    ),
    running(
        "a process whose program is gone",
        "cp /usr/bin/sleep /opt/gone; setsid /opt/gone 72004 & sleep 0.2; rm /opt/gone",
        "gone 72004",
    ),
    running(
        "a process that starts itself again",
        "printf 'import os,time\\nif os.fork(): os._exit(0)\\nos.setsid()\\ntime.sleep(0.4)\\n"
        'os.execv("/usr/bin/python3",["python3","/var/tmp/again.py"])\\n\' >/var/tmp/again.py; '
        "setsid python3 /var/tmp/again.py &",
        "again.py",
    ),
    Residue(
        "a process whose first thread has ended",
        "processes",
        "printf 'import ctypes,threading,time\\nthreading.Thread(target=time.sleep,args=(72030,)).start()\\n"
        "ctypes.CDLL(None).pthread_exit(None)\\n' >/var/tmp/headless.py; "
        "setsid python3 /var/tmp/headless.py &",
        "grep -l 'headles[s].py' /proc/[0-9]*/task/*/cmdline",
    ),
    running(
        "a process in an idle platform unit's control group",
        "setsid sleep 72005 & pid=$!; "
        "for t in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do "
        f"[ -d $t{BASE} ] && mkdir -p $t{BASE}/system.slice/apt-daily.service && "
        f"echo $pid >$t{BASE}/system.slice/apt-daily.service/cgroup.procs; done",
        "sleep 72005",
    ),
    running(
        "a platform unit that ran never before and runs something else",
        "mkdir -p /run/systemd/system/systemd-timedated.service.d; "
        "printf '[Service]\\nType=simple\\nExecStart=\\n"
        "ExecStart=/usr/bin/sleep 72006\\n' >/run/systemd/system/systemd-timedated.service.d/evil.conf; "
        "systemctl daemon-reload; systemctl start systemd-timedated",
        "sleep 72006",
    ),
    running(
        "a process in a namespace of its own",
        "setsid unshare -mnpf --mount-proc sleep 72007 &",
        "sleep 72007",
    ),
    running(
        "a process of an account that is gone",
        "setsid setpriv --reuid 4245 --clear-groups sleep 72008 &",
        "sleep 72008",
    ),
    running(
        "a traced process",
        "setsid python3 -c 'import ctypes,os,time; ctypes.CDLL(None).ptrace(0,0,0,0); "
        "os.kill(os.getpid(), 19); time.sleep(72009)' &",
        "sleep.72009",
    ),
    Residue(
        "a listener",
        "processes",
        'setsid python3 -c \'import socket,time; s=socket.socket(); s.bind(("", 7272)); s.listen(); '
        "time.sleep(72010)' &",
        "grep -i ':1C68 .* 0A ' /proc/net/tcp",
    ),
    Residue(
        "a control group without a unit", "control groups", f"mkdir -p {TREE}/evil/deep", f"ls -d {TREE}/evil"
    ),
)
MOUNTS = (
    mounted("a file system over a folder", "mount -t tmpfs none /srv", "/srv"),
    mounted(
        "a folder over a platform's folder", "mkdir -p /opt/fake; mount --bind /opt/fake /etc/apt", "/etc/apt"
    ),
    mounted("a file over a platform's program", "mount --bind /bin/true /usr/bin/groups", "/usr/bin/groups"),
    mounted("two file systems on one path", "mount -t tmpfs a /mnt; mount -t tmpfs b /mnt", "/mnt"),
    mounted(
        "an overlay",
        "mkdir -p /mnt/x; mount -t tmpfs o /media; mkdir /media/u /media/w /media/m; "
        "mount -t overlay -o lowerdir=/etc/cron.d,upperdir=/media/u,workdir=/media/w none /media/m",
        "/media/m",
    ),
    mounted(
        "a mount in a folder that will be emptied", "mkdir /tmp/in; mount --bind /etc /tmp/in", "/tmp/in"
    ),
    Residue(
        "a mount that became writable",
        "mounts",
        "mount -o remount,rw /proc/sys",
        "grep ' /proc/sys rw' /proc/1/mountinfo",
    ),
)
KERNEL = (
    parameter("a parameter of the network", "/proc/sys/net/ipv4/tcp_syncookies", "0"),
    parameter("a parameter of one interface", "/proc/sys/net/ipv4/conf/eth0/proxy_arp", "1"),
    parameter("a parameter of IPC", "/proc/sys/kernel/msgmnb", "12345"),
    Residue(
        "keys in the kernel",
        "keys",
        "setpriv --reuid 4246 --clear-groups python3 -c "
        '\'import ctypes; ctypes.CDLL(None).syscall(248, b"user", '
        'b"evil", b"x", 1, -4)\'',
        "setpriv --reuid 4246 --clear-groups python3 -c 'import ctypes; "
        'n = ctypes.CDLL(None).syscall(250, 11, -4, 0, 0); print(n if n > 0 else "")\'',
    ),
    Residue("shared memory", "IPC", "ipcmk -M 4096", "ipcs -m | grep 0x"),
    Residue("a semaphore", "IPC", "ipcmk -S 1", "ipcs -s | grep 0x"),
    Residue("a message queue", "IPC", "ipcmk -Q", "ipcs -q | grep 0x"),
    Residue("a POSIX message queue", "IPC", "touch /dev/mqueue/evil", "ls /dev/mqueue | grep evil"),
    Residue("a file in shared memory", "IPC", "echo evil >/dev/shm/evil", "ls /dev/shm | grep evil"),
)
NETWORK = (
    Residue("the host's name", "network", "hostname evil-host", "hostname | grep evil"),
    Residue("a bridge", "network", "ip link add evilbr type bridge", "ip -o link show evilbr"),
    Residue(
        "a pair of interfaces", "network", "ip link add ev0 type veth peer name ev1", "ip -o link show ev0"
    ),
    Residue(
        "a tunnel", "network", "ip link add evx type vxlan id 7 dstport 4789 dev eth0", "ip -o link show evx"
    ),
    Residue("an address", "network", "ip addr add 10.99.9.9/32 dev eth0", "ip -o addr | grep 10.99.9.9"),
    Residue("a route", "network", "ip route add blackhole 10.98.0.0/16", "ip route | grep 10.98"),
    Residue(
        "a routing table with its rule",
        "network",
        "ip route add blackhole 10.97.0.0/16 table 97; ip rule add from 10.97.0.1 lookup 97",
        "ip rule | grep 10.97; ip route show table 97",
    ),
    Residue(
        "a neighbour for ever",
        "network",
        "ip neigh add 192.0.2.66 lladdr 02:00:00:00:00:66 dev eth0 nud permanent",
        "ip neigh show nud permanent | grep 02:00:00:00:00:66",
    ),
    Residue(
        "a network namespace",
        "network",
        "ip netns add evil",
        "ip netns list | grep evil; ls /run/netns | grep evil",
    ),
    Residue(
        "a smaller packet size",
        "network",
        "ip link set eth0 mtu 1400",
        "ip -o link show eth0 | grep 'mtu 1400'",
    ),
    Residue(
        "a queue that counts",
        "network",
        "tc qdisc add dev eth0 clsact",
        "tc qdisc show dev eth0 | grep clsact",
    ),
    Residue(
        "a rule of the packet filter",
        "firewall",
        "iptables -I INPUT -p tcp --dport 9999 -j DROP",
        "iptables-save | grep 9999",
    ),
    Residue(
        "a chain of the packet filter",
        "firewall",
        "iptables -N EVIL; iptables -A EVIL -j ACCEPT; iptables -A FORWARD -j EVIL",
        "iptables-save | grep EVIL",
    ),
    Residue(
        "a table of the packet filter",
        "firewall",
        "iptables -t mangle -A PREROUTING -j MARK --set-mark 7",
        "iptables-save | grep set-xmark",
    ),
    Residue(
        "a rule for IPv6",
        "firewall",
        "ip6tables -A INPUT -p tcp --dport 9998 -j DROP",
        "ip6tables-save | grep 9998",
    ),
    Residue(
        "a rule in the legacy filter",
        "firewall",
        "iptables-legacy -A INPUT -p tcp --dport 9997 -j DROP",
        "iptables-legacy-save | grep 9997",
    ),
    Residue(
        "a rule for ARP", "firewall", "arptables -A INPUT -s 10.96.0.1 -j DROP", "arptables-save | grep 10.96"
    ),
)
ENGINES = (
    Residue(
        "a container that restarts",
        "engines",
        f"{IMAGE.format('evil:1')}; "
        "docker run -d --restart=always --network host evil:1 /usr/bin/sleep 72020",
        "docker ps -aq; pgrep -f 'sleep 72020'",
    ),
    Residue("an image and its names", "engines", "docker tag evil:1 evil:2", "docker images -q"),
    Residue("a volume", "engines", "docker volume create evil", "docker volume ls -q | grep evil"),
    Residue("an engine's network", "engines", "docker network create evil", "docker network ls | grep evil"),
    Residue(
        "a swarm",
        "engines",
        "docker swarm init --advertise-addr 127.0.0.1",
        "docker info --format '{{.Swarm.LocalNodeState}}' | grep -v inactive; "
        "docker network ls | grep -E 'ingress|gwbridge'",
    ),
    Residue(
        "a namespace of containerd",
        "engines",
        "ctr namespaces create evil",
        "ctr namespaces ls -q | grep evil",
    ),
    Residue(
        "an image in a namespace of containerd",
        "engines",
        f"{IMAGE.format('evil:3')}; ctr namespaces create evil; "
        "docker save evil:3 | ctr -n evil images import -",
        "ctr -n evil images ls -q; ctr -n evil content ls -q",
    ),
    at("a folder in the engine's storage", "engines", "/var/lib/docker/overlay2/evil/data"),
    at("a hidden volume", "engines", "/var/lib/docker/volumes/hidden/_data/data"),
    at(
        "the storage of an engine that is not installed",
        "engines",
        "/var/lib/containers/storage/overlay/evil",
    ),
    at("the storage of a rootless engine", "engines", "/root/.local/share/containers/storage/evil"),
    at("an engine's context", "engines", "/root/.docker/contexts/meta/evil/meta.json", "{}"),
)
LOGS = (
    at("a journal of another machine", "logs", f"/var/log/journal/{'e1' * 16}/system.journal"),
    at("a log of the tenant's", "logs", "/var/log/evil/deep/log"),
    at("a log that was turned over", "logs", "/var/log/wtmp.1"),
    at("a core dump", "logs", "/var/lib/systemd/coredump/core.evil.zst"),
    Residue(
        "a line in a log", "logs", "echo evil-line >>/var/log/dpkg.log", "grep evil-line /var/log/dpkg.log"
    ),
)
TOOLS = (
    Residue(
        "a library loaded into everything",
        "tools",
        "echo /opt/evil.so >/etc/ld.so.preload; chattr +i /etc/ld.so.preload",
        "ls -d /etc/ld.so.preload",
    ),
    Residue(
        "a changed systemctl",
        "tools",
        "cp /usr/bin/systemctl /opt/ctl; printf evil >>/opt/ctl; cp /opt/ctl /usr/bin/systemctl",
        "tail -c 4 /usr/bin/systemctl | grep evil",
    ),
    Residue(
        "a Python of the tenant's",
        "tools",
        "cp /usr/bin/python3.11 /usr/bin/python3.evil; ln -sf python3.evil /usr/bin/python3",
        "readlink /usr/bin/python3 | grep evil; ls -d /usr/bin/python3.evil",
    ),
    at("a start-up file of Python", "tools", "/usr/local/lib/python3.11/dist-packages/evil.pth", "import os"),
    at(
        "a module that shadows Python's own",
        "tools",
        "/usr/lib/python3/dist-packages/systemd/journal.py",
        "# evil",
    ),
    Residue(
        "a line at each start of the shell",
        "tools",
        "echo ': evil-rc' >>/root/.bashrc",
        "grep evil-rc /root/.bashrc",
    ),
)
RESIDUES = (*MOUNTS, *KERNEL, *NETWORK, *ENGINES, *LOGS, *PROCESSES, *TOOLS)
