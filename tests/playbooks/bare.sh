# Takes off a lab host what enrolment installs, so that it is as bare as a machine that was just delivered.
# The engine's programs stay aside: the stand-in package of the engine is made of links to them.
set -e
mkdir -p /opt/engine
systemctl stop docker.socket docker.service containerd.service prometheus-node-exporter.service
cp -a /usr/sbin/dockerd /usr/bin/docker /usr/bin/containerd /usr/bin/containerd-shim-runc-v2 /usr/bin/ctr /usr/sbin/runc /opt/engine/
dpkg-query -W -f '${Package} ${Version}\n' 'nvidia-*' 'datacenter-*' | cut -d' ' -f1 >/tmp/names
dpkg --purge --force-depends $(cat /tmp/names) docker.io containerd runc prometheus-node-exporter >/dev/null 2>&1
rm -rf /tmp/names /etc/apt/sources.list.d/* /etc/apt/sources.list /etc/docker /usr/bin/nvidia-smi
systemctl daemon-reload
! command -v dockerd
! command -v nvidia-smi
