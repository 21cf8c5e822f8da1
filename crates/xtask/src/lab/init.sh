#!/bin/busybox sh
# The emulated host's first program. Its root is the real machine's own root, read-only over 9p under an overlay whose
# upper layer is memory. It ends in the lab's agent, which is the real machine's xtask (see agent.rs).
bb=/bin/busybox

fail() {
    echo "lab: $1" >/dev/console
    $bb poweroff -f
}

$bb mkdir -p /dev /proc /host /layers /root
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc

# In the order of their dependencies, which the file's writer chose.
while read -r module; do
    $bb insmod "/modules/$module" || fail "cannot load the kernel module $module"
done </modules/order

# Nothing on the machine is expected to change under a running lab, so its files may be cached.
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro machine /host ||
    fail "cannot mount the machine's root"
$bb mount -t tmpfs -o size=75%,mode=755 layers /layers
$bb mkdir /layers/upper /layers/work
$bb mount -t overlay -o lowerdir=/host,upperdir=/layers/upper,workdir=/layers/work root /root ||
    fail "cannot mount the overlay"

# A file system as most machines have it, which neither 9p nor memory is.
$bb mount -t ext4 -o discard /dev/vda /root/var/tmp || fail "cannot mount the scratch disk"
$bb chmod 1777 /root/var/tmp

$bb mount --move /dev /root/dev
$bb mount --move /proc /root/proc
$bb mkdir -p /root/dev/pts /root/dev/shm
$bb mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
$bb mount -t tmpfs -o mode=1777 shm /root/dev/shm
$bb ln -s /proc/self/fd /root/dev/fd
$bb ln -s /proc/self/fd/0 /root/dev/stdin
$bb ln -s /proc/self/fd/1 /root/dev/stdout
$bb ln -s /proc/self/fd/2 /root/dev/stderr
$bb chmod 666 /root/dev/kvm /root/dev/net/tun
$bb mount -t sysfs sysfs /root/sys
$bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$bb mount -t tmpfs -o mode=755 run /root/run
$bb mkdir -p /root/run/lock /root/run/snowboot-lab
$bb chmod 1777 /root/run/lock
$bb cp /agent /job /root/run/snowboot-lab/
$bb chmod 600 /root/run/snowboot-lab/job

$bb hostname lab
$bb ip link set lo up
ulimit -Hn 524288

exec $bb switch_root -c /dev/console /root /run/snowboot-lab/agent lab-agent
