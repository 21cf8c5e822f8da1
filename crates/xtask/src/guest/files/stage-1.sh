#!/bin/busybox sh
# Stage 1 of a test machine, as a stock NixOS image has it: no module, disk or card is known by name. udev loads what the
# machine's devices ask for, and names them; the root is found by its label, the store by the tag of its share.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin

fail() {
    echo "stage 1: $*" >/dev/console
    exit 1
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=0755 tmpfs /run
[ -e /kernel/x86/microcode/GenuineIntel.bin ] || fail "the first archive is missing"
[ "$(grep -c '^virtio' /proc/modules)" = 0 ] || fail "a module was loaded before udev"

shares=virtiofs init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in
    test.shares=*) shares=${word#*=} ;;
    init=*) init=${word#*=} ;;
    esac
done

/lib/systemd/systemd-udevd --daemon || fail "udevd does not run"
udevadm trigger --action=add
udevadm settle || fail "udev does not come to an end"

root=/dev/disk/by-label/nixos
tries=0
until [ -e $root ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "there is no $root: $(ls /dev/disk/*)"
    usleep 100000
done
mount -t ext4 $root /mnt-root || fail "cannot mount $root"

mount_share() {
    mkdir -p "/mnt-root$2"
    case $shares in
    9p) mount -t 9p -o "$3,trans=virtio,version=9p2000.L,msize=16384" "$1" "/mnt-root$2" ;;
    *) mount -t virtiofs -o "$3" "$1" "/mnt-root$2" ;;
    esac || fail "there is no share $1"
}
mount_share nix-store /nix/.ro-store ro
mount_share xchg /tmp/xchg rw
mount_share shared /tmp/shared rw
mkdir -p /mnt-root/nix/.rw-store /mnt-root/nix/store
mount -t tmpfs -o mode=0755 tmpfs /mnt-root/nix/.rw-store
mkdir /mnt-root/nix/.rw-store/store /mnt-root/nix/.rw-store/work
mount -t overlay -o lowerdir=/mnt-root/nix/.ro-store,upperdir=/mnt-root/nix/.rw-store/store,workdir=/mnt-root/nix/.rw-store/work \
    overlay /mnt-root/nix/store || fail "cannot lay a writable store over the host's"

udevadm control --exit
for folder in proc sys dev run; do
    mkdir -p /mnt-root/$folder
    mount --move /$folder /mnt-root/$folder
done
[ -x "/mnt-root$init" ] || fail "there is no $init"
exec switch_root /mnt-root "$init"
