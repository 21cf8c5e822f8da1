# One store for three machines: in place (DAX) and as a disk; files that virtiofsd serves, a disk that qemu-storage-daemon serves.
import pathlib
import subprocess
import time

OUTSIDE = pathlib.Path("/run/outside")
SOCKET = pathlib.Path("/run/outside.sock")
DISK = pathlib.Path("/run/outside.img")
DISK_SOCKET = pathlib.Path("/run/outside-disk.sock")
LABEL = "/dev/disk/by-label/nix-store"
# The sum of bytes 0 to 250 over and over, 32 MiB of them.
BIG = subprocess.run(
    ["sha256sum"], input=(bytes(range(251)) * (1 << 18))[: 32 << 20], capture_output=True, check=True
).stdout.split()[0].decode()

OUTSIDE.mkdir()
(OUTSIDE / "hello").write_text("from outside\n")
virtiofsd = subprocess.Popen(
    ["/usr/lib/qemu/virtiofsd", f"--socket-path={SOCKET}", "-o", f"source={OUTSIDE}", "-o", "cache=auto"]
)
DISK.write_bytes(b"from the host\n".ljust(32 << 20, b"."))
storage_daemon = subprocess.Popen(
    [
        "qemu-storage-daemon",
        f"--blockdev=driver=file,node-name=disk,filename={DISK}",
        f"--export=type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={DISK_SOCKET},writable=on",
    ]
)
while not (SOCKET.exists() and DISK_SOCKET.exists()):
    assert virtiofsd.poll() is None and storage_daemon.poll() is None
    time.sleep(0.1)
start_all()


def cached(machine):
    return int(machine.succeed("awk '/^Cached:/ {print $2}' /proc/meminfo"))


def growth(machine, options):
    machine.wait_for_unit("multi-user.target")
    machine.wait_until_succeeds(f"test -b {LABEL}", timeout=60)
    machine.succeed(f"mkdir -p /mnt && mount -t erofs -o {options} {LABEL} /mnt")
    # What sha256sum itself takes up is there before.
    machine.succeed("sha256sum /mnt/folder/small")
    before = cached(machine)
    assert machine.succeed("sha256sum /mnt/big").split()[0] == BIG
    assert machine.succeed("cat /mnt/folder/small") == "a small file\n"
    assert machine.succeed("stat -c '%u %g %Y' /mnt/big").split() == ["0", "0", "0"]
    machine.fail("touch /mnt/new")
    return cached(machine) - before


with subtest("guests read a store in place"):
    for machine in [machine1, machine2]:
        assert growth(machine, "ro,dax=always") < 16 << 10
        machine.succeed("findmnt -n -o SOURCE /mnt | grep pmem0")
    assert machine1.succeed("ls /mnt").split() == ["big", "folder", "left-out"]
    assert machine2.succeed("ls /mnt").split() == ["big", "folder"]

with subtest("a disk is copied into each guest"):
    assert growth(machine3, "ro") > 16 << 10
    assert machine3.succeed("cat /sys/block/vdb/serial") == "nix-store"

with subtest("files of another process"):
    machine3.succeed("modprobe virtiofs; mkdir -p /outside && mount -t virtiofs outside /outside")
    assert machine3.succeed("cat /outside/hello") == "from outside\n"
    machine3.succeed("head -c 1000000 /dev/zero >/outside/zeroes && sync /outside/zeroes")
    assert (OUTSIDE / "zeroes").read_bytes() == bytes(1_000_000)

with subtest("a disk of another process"):
    assert machine3.succeed("head -n 1 /dev/vdc; cat /sys/block/vdc/size").split("\n")[:2] == ["from the host", "65536"]
    machine3.succeed("dd if=/dev/vdc of=/dev/null bs=1M iflag=direct")
    machine3.succeed("echo inside | dd of=/dev/vdc bs=4096 seek=3 conv=sync,fsync")
    assert DISK.read_bytes()[3 * 4096 :].startswith(b"inside\n\0")

with subtest("the other process dies"):
    storage_daemon.kill()
    storage_daemon.wait()
    virtiofsd.kill()
    virtiofsd.wait()
    machine3.succeed("(ls /outside/more &) >/dev/null 2>&1", "echo still here")
    assert machine3.succeed("cat /mnt/folder/small") == "a small file\n"
    machine3.crash()

for machine in [machine1, machine2]:
    machine.shutdown()
