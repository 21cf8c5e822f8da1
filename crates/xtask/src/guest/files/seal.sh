# Turns an unpacked Debian into the root image of test guests.
# Arguments: the Debian's tar file, our own files, the kernel package's tree, the image to write.
set -eu
tar=$1 files=$2 kernel=$3 image=$4

mkdir root
tar -C root --numeric-owner -xf "$tar"
rm -rf root/var/lib/apt/lists/* root/var/cache/apt/* root/usr/share/doc root/usr/share/man \
    root/usr/share/info root/usr/share/locale root/etc/hostname root/boot
# Servers want their folders there.
find root/var/log -type f -delete
# Nothing that a package brings starts by itself: a test starts what it is about. Every service has a unit; its older
# script would only be looked at.
rm -rf root/etc/systemd/system/*.wants root/etc/rc?.d root/etc/init.d
cp -a "$files/." root/
chown -R 0:0 root/usr/lib/snowboot root/etc/systemd/system root/etc/systemd/*.conf.d root/etc/sysctl.d \
    root/etc/modprobe.d

# The modules, for what a test may ask the guest to load.
mkdir -p root/usr/lib/modules
cp -a "$kernel/lib/modules/." root/usr/lib/modules/
release=$(ls "$kernel/lib/modules")
depmod -b root "$release"

# Mount points that a read-only root cannot grow.
mkdir -p root/nix/store root/tmp root/root root/proc root/sys root/dev root/run
chmod 1777 root/tmp
printf '%s\n' 'd /tmp/shared 0755 root root' 'd /tmp/xchg 0755 root root' > root/etc/tmpfiles.d/test.conf

# What a boot would otherwise do first, or do for nobody.
units=root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service serial-getty@ttyS0.service serial-getty@hvc0.service systemd-timesyncd.service \
    systemd-firstboot.service systemd-machine-id-commit.service systemd-hwdb-update.service systemd-update-done.service \
    systemd-journal-catalog-update.service systemd-sysusers.service systemd-pstore.service \
    systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-network-generator.service systemd-binfmt.service systemd-networkd.service systemd-resolved.service \
    systemd-journal-flush.service systemd-remount-fs.service ldconfig.service modprobe@configfs.service \
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount kmod-static-nodes.service systemd-tmpfiles-clean.timer \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-pcrphase.service systemd-repart.service \
    systemd-pcrphase-sysinit.service getty-static.service; do
    ln -sf /dev/null "$units/$unit"
done
# Generators for what no test guest has; each is a process at every boot.
mkdir -p root/etc/systemd/system-generators
for generator in bless-boot cryptsetup debug getty gpt-auto hibernate-resume integritysetup rc-local run system-update \
    veritysetup; do
    ln -sf /dev/null "root/etc/systemd/system-generators/systemd-$generator-generator"
done
for unit in backdoor network-setup; do
    ln -sf "/etc/systemd/system/$unit.service" "$units/multi-user.target.wants/$unit.service"
done
ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"
: > root/etc/fstab
: > root/etc/machine-id
sed -i 's/^root:[^:]*:/root::/' root/etc/passwd root/etc/shadow
# Names of interfaces are given by address, not by place.
ln -sf /dev/null root/etc/systemd/network/99-default.link

mkfs.erofs -zlz4 -T0 -U 5b3a1f0e-9c1d-4f0a-8e34-6e6978736e6f --quiet "$image" root >mkfs.log 2>&1 ||
    mkfs.erofs -zlz4 -T0 -U 5b3a1f0e-9c1d-4f0a-8e34-6e6978736e6f "$image" root
