#!/bin/busybox sh
# The guests' first program: loads modules, mounts the root, lays the node's own files into it, and hands over to the
# init that the kernel's command line names.
# The machine is told that init runs (docs/timeline.md): port 0x610, which no builtin can reach.
/bin/busybox dd if=/init-started of=/dev/port bs=1 seek=1552 conv=notrunc status=none
/bin/busybox --install -s /bin
export PATH=/bin

fail() {
    echo "initrd: $*" >/dev/console
    # The end of process 1 is a panic, and panic=1 makes that a reset.
    exit 1
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

load() {
    while read -r module; do
        insmod "/modules/$1/$module" || echo "initrd: cannot load $module" >/dev/console
    done <"/modules/$1/list"
}
load always

root='' init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    init=*) init=${word#init=} ;;
    esac
done

# /dev/disk/by-id/virtio-SERIAL, without udev.
disk_with_serial() {
    for disk in /sys/block/vd*; do
        if [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ]; then
            echo "/dev/${disk##*/}"
            return
        fi
    done
}

find_root() {
    case $root in
    /dev/disk/by-id/virtio-*) disk_with_serial "${root#/dev/disk/by-id/virtio-}" ;;
    *) [ -b "$root" ] && echo "$root" ;;
    esac
}

wait_for_root() {
    tries=0
    until device=$(find_root) && [ -n "$device" ]; do
        tries=$((tries + 1))
        [ $tries -lt 3000 ] || fail "there is no disk $root"
        usleep 10000
    done
}

# What holds the userland, to read from: a disk, or a folder of the host by its tag.
mount_lower() {
    case $root in
    virtiofs:*)
        load virtiofs
        mount -t virtiofs -o ro "${root#*:}" /lower || fail "there is no share $root"
        ;;
    9p:*)
        load 9p
        mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=16384,cache=loose "${root#*:}" /lower || fail "there is no share $root"
        ;;
    *)
        wait_for_root
        mount -t erofs -o ro "$device" /lower 2>/dev/null
        ;;
    esac
}

mkdir -p /lower /rw /root
if mount_lower; then
    # What a machine writes to its root outlives it only on a disk.
    state=$(disk_with_serial state)
    if [ -n "$state" ]; then
        load ext4
        mount -t ext4 "$state" /rw || fail "cannot mount $state"
    else
        mount -t tmpfs -o mode=0755 tmpfs /rw
    fi
    mkdir -p /rw/upper /rw/work
    mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /root || fail "cannot overlay $root"
else
    load ext4
    mount -t ext4 "$device" /root || fail "$device holds neither an erofs nor an ext4 root"
fi
# A root that was kept has them already.
cp -af /node/. /root/ || fail "cannot write this node's files"

# With a backdoor in the initrd, a systemd runs in it, too: with the root's programs, on a root of its own in memory, as
# systemd demands before it believes that it is in an initrd. It leaves when the test says so.
if [ -e /backdoor ]; then
    set -e
    mkdir /initrd
    mount -t tmpfs -o mode=0755 tmpfs /initrd
    cd /initrd
    mkdir usr proc sys dev run tmp var root sysroot
    mount --bind /lower/usr usr
    cp -af /lower/bin /lower/sbin /lower/lib* /lower/etc /node/. .
    touch etc/initrd-release
    units=etc/systemd/system
    mkdir $units/initrd.target.wants
    ln -s ../backdoor.service $units/initrd.target.wants/
    ln -sf /usr/lib/systemd/system/initrd.target $units/default.target
    # It would leave at once.
    ln -s /dev/null $units/initrd-parse-etc.service
    # The root is mounted already.
    ln -s /dev/null etc/systemd/system-generators/systemd-fstab-generator
    mount --move /root sysroot
    cd /
    mount --move /initrd /root
    init=/usr/lib/systemd/systemd
fi
for folder in proc sys dev; do
    mount --move /$folder /root/$folder
done
exec switch_root /root "$init"
