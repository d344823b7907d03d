#!/bin/busybox sh
# The guest's first process. Lines that begin with "@recoup" are for the host.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp RECOUP_BIN_DIR=/bin
# An emulated machine takes ten times as long for each kill (tests of the companion).
export RECOUP_KILLS=25
# And for each random operation on a pool.
export RECOUP_POOL_OPS=300
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mkdir -p /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
cd /tmp
# The kernel has the first port for itself, so that its words never cut a line of ours. Through a
# pipe, since programs that see a terminal draw on it.
stty -F /dev/ttyS1 raw
set -o pipefail
sh /script < /dev/null 2>&1 | cat > /dev/ttyS1
echo "@recoup done $?" > /dev/ttyS1
# The host starts QEMU so that this ends it. Waits until the port has sent everything.
stty -F /dev/ttyS1 cooked
reboot -f
