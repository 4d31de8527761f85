#!/bin/bash
# What a tenant with root may leave on a host. Run on a lab host over SSH; every line stands for one thing to find.
set -u
useradd -m -s /bin/bash mallory
echo 'mallory:secret' | chpasswd
groupadd diggers && usermod -aG diggers,sudo mallory
echo 'mallory ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/mallory && chmod 440 /etc/sudoers.d/mallory
echo 'root:letmein' | chpasswd
usermod -s /bin/bash games
mkdir -p /home/mallory/.ssh /usr/games/.ssh
ssh-keygen -q -t ed25519 -N '' -f /home/mallory/.ssh/id_ed25519
cat /home/mallory/.ssh/id_ed25519.pub >>/root/.ssh/authorized_keys
cp /home/mallory/.ssh/id_ed25519.pub /home/mallory/.ssh/authorized_keys
cp /home/mallory/.ssh/id_ed25519.pub /usr/games/.ssh/authorized_keys
echo secret-data >/home/mallory/dataset.bin
chown -R mallory: /home/mallory
echo 'history' >/root/.bash_history
echo 'alias ls=evil' >>/root/.bashrc
echo 'left' >/root/notes.txt
echo left >/tmp/left; echo left >/var/tmp/left; echo left >/dev/shm/left
mkdir -p /tmp/.X11-unix /scratch/run /tmp/bind && echo left >/tmp/.X11-unix/left && echo left >/scratch/run/left
mount --bind /etc /tmp/bind
mkdir -p /opt/tool && echo left >/opt/tool/left && chown -R mallory: /opt/tool
echo '#!/bin/sh' >/usr/local/bin/rootkit && chmod 4755 /usr/local/bin/rootkit
cp /bin/true /usr/local/sbin/immutable && chattr +i /usr/local/sbin/immutable 2>/dev/null
echo 'export EVIL=1' >/etc/profile.d/evil.sh
echo '* * * * * root touch /tmp/by-cron' >/etc/cron.d/evil
echo '* * * * * touch /tmp/by-crontab' | crontab -
echo '* * * * * touch /tmp/by-user-crontab' | crontab -u mallory -
echo 'touch /tmp/by-at' | at now + 1 hour 2>/dev/null
echo 'Banner /etc/hostname' >/etc/ssh/sshd_config.d/99-evil.conf
sed -i '1i # altered' /etc/pam.d/sshd
# units: a service that comes back, a timer, one that only exists in memory, a vendor-folder one, a masked platform unit
printf '[Service]\nExecStart=/usr/bin/sleep 70001\nRestart=always\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/evil.service
printf '[Timer]\nOnCalendar=hourly\n[Install]\nWantedBy=timers.target\n' >/etc/systemd/system/evil.timer
cp /etc/systemd/system/evil.service /usr/lib/systemd/system/vendor-evil.service
systemctl daemon-reload
systemctl enable -q --now evil.service evil.timer vendor-evil.service
systemd-run -q --unit=rogue-transient /usr/bin/sleep 70002
mkdir -p /etc/systemd/system/cron.service.d && printf '[Service]\nEnvironment=EVIL=1\n' >/etc/systemd/system/cron.service.d/evil.conf
systemctl disable -q --now atd.service
loginctl enable-linger mallory
mkdir -p /home/mallory/.config/systemd/user/default.target.wants
printf '[Service]\nExecStart=/usr/bin/sleep 70003\n' >/home/mallory/.config/systemd/user/mine.service
ln -s ../mine.service /home/mallory/.config/systemd/user/default.target.wants/mine.service
chown -R mallory: /home/mallory/.config
systemctl restart "user@$(id -u mallory).service" 2>/dev/null
# processes: a tenant's, a rogue root daemon that deafens itself to SIGTERM, one hidden in a platform unit's control group
su mallory -c 'setsid nohup sleep 70004 >/dev/null 2>&1 &'
setsid nohup bash -c 'trap "" TERM HUP; while :; do sleep 70005; done' >/dev/null 2>&1 &
setsid nohup sleep 70006 >/dev/null 2>&1 &
hidden=$!
group=$(sed -n 's/^0:://p;s/^[0-9]*:name=systemd://p' "/proc/$(pidof -s cron || pidof -s dockerd)/cgroup" | head -1)
for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ -w "$tree$group/cgroup.procs" ] && echo "$hidden" >"$tree$group/cgroup.procs"
done
setsid nohup python3 -c 'import socket,time; s=socket.socket(); s.bind(("0.0.0.0", 6666)); s.listen(); time.sleep(70007)' >/dev/null 2>&1 &
# memory: SysV and POSIX
ipcmk -Q >/dev/null; ipcmk -M 4096 >/dev/null; ipcmk -S 1 >/dev/null
touch /dev/mqueue/evil 2>/dev/null
# containers: from an image made here, since a lab host reaches no registry
tar -C / -c bin/busybox usr/bin/sleep lib/x86_64-linux-gnu lib64 usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib64 2>/dev/null | docker import - evil:1 >/dev/null
docker volume create evil-data >/dev/null; docker network create evil-net >/dev/null
docker run -d --restart=always --name evil --network host -v evil-data:/data evil:1 /usr/bin/sleep 70008 >/dev/null
docker create --name evil-stopped evil:1 /usr/bin/sleep 1 >/dev/null
# GPUs
setsid nohup nvidia-sim use --gpu 0 --memory 1000 --user mallory -- sleep 70009 >/dev/null 2>&1 &
sleep 1
nvidia-smi -i 0 -c EXCLUSIVE_PROCESS >/dev/null; nvidia-smi -i 0 -pm 0 >/dev/null; nvidia-smi -i 0 -pl 300 >/dev/null
nvidia-smi -i 1 -lgc 600,600 >/dev/null
nvidia-smi -i 1 -mig 1 >/dev/null; nvidia-smi -i 1 -r >/dev/null; nvidia-smi mig -i 1 -cgi 19,19 -C >/dev/null
nvidia-smi -i 1 -e 0 >/dev/null
exit 0
