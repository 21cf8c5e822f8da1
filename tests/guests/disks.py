# Two machines with every kind of disk: images over others, one that both share, in memory, empty ones in order, made with a
# file system, on a host's file system that fills up. Power cuts in the middle of writes.
import hashlib
import subprocess
from pathlib import Path

# How often the power is cut.
CUTS = 2
MIB = 1 << 20

folder = Path(driver.out_dir)
small = folder / "small"
images = ["base.img", "middle.qcow2", "packed.qcow2"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns


def digests():
    return {name: digest(folder / name) for name in images}


before = digests()
# A host's file system that is smaller than the disk that is on it.
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", small], check=True)
machine1.start()
machine1.wait_for_unit("multi-user.target")

with subtest("disks are in the order of the manifest"):
    sizes = machine1.succeed("cat /sys/block/vd[a-z]/size").split()
    expected = [32, 32, 32, 32, 64, 64, 16, 24, 40]
    assert sizes[1:] == [str(mib * MIB // 512) for mib in expected], sizes
    serials = machine1.succeed("for disk in b c d e f g h i j; do echo \"$(cat /sys/block/vd$disk/serial)\"; done")
    assert serials.split("\n")[:9] == ["shared", "chain", "packed", "over", "nixos", "full", "", "second", ""], serials
    assert machine1.succeed("blkid -o value -s LABEL /dev/vdf /dev/vdj").split() == ["nixos", "third"]
    machine1.succeed("test /dev/disk/by-label/nixos -ef /dev/vdf")

with subtest("a queue for each vCPU"):
    assert machine1.succeed("ls /sys/block/vdb/mq").split() == ["0", "1"]
    # By their process IDs: a shell forgets the number of a job that ends while it waits for another.
    read = "dd if=/dev/vdb of=/dev/null bs=64k iflag=direct"
    machine1.succeed(f"taskset -c 0 {read} & one=$!; taskset -c 1 {read} & wait $one && wait $!")

with subtest("an image that two machines write to at once"):
    machine2.start()
    machine2.wait_for_unit("multi-user.target")
    for number, machine in enumerate([machine1, machine2]):
        machine.succeed("mkdir -p /run/b && mount /dev/vdb /run/b", "grep -x 'from the base' /run/b/hello")
        machine.succeed(f"echo {number} >/run/b/own", "head -c 4000000 /dev/urandom >/run/b/noise", "sync")
    for number, machine in enumerate([machine1, machine2]):
        machine.succeed("umount /run/b && mount /dev/vdb /run/b", f"grep -x {number} /run/b/own")

with subtest("images over others"):
    for disk in ["c", "d", "e"]:
        machine1.succeed(
            f"mkdir -p /run/{disk} && mount /dev/vd{disk} /run/{disk}",
            f"grep -x 'from the base' /run/{disk}/hello && echo changed >/run/{disk}/hello",
            f"head -c 3000000 /dev/urandom | tee /run/{disk}/noise | sha256sum >/run/{disk}/sum",
            f"umount /run/{disk}",
        )

with subtest("in memory, and empty"):
    machine2.succeed(
        "head -c 32M /dev/urandom | tee /dev/vdc | sha256sum >/run/sum && sync /dev/vdc",
        "echo 3 >/proc/sys/vm/drop_caches && sha256sum </dev/vdc | cmp - /run/sum",
    )
    machine2.shutdown()
    assert machine1.succeed("cmp -n 16777216 /dev/vdh /dev/zero && echo same").strip() == "same"
    machine1.succeed("mkdir -p /run/j && mount /dev/vdj /run/j", "echo kept >/run/j/file", "umount /run/j")
    machine1.succeed("echo mine >/dev/vdh; sync /dev/vdh", "echo mine >/dev/vdi; sync /dev/vdi")

with subtest("what is discarded takes no space"):
    full = small / "full.img"
    machine1.succeed("head -c 8M /dev/urandom >/dev/vdg; sync /dev/vdg")
    assert full.stat().st_blocks * 512 >= 8 * MIB
    machine1.succeed("blkdiscard -o 1M -l 6M /dev/vdg")
    assert full.stat().st_blocks * 512 <= 3 * MIB, full.stat().st_blocks
    machine1.succeed("blkdiscard /dev/vdg")

with subtest("the host is full"):
    machine1.fail("dd if=/dev/urandom of=/dev/vdg bs=1M count=32 oflag=direct")
    assert "I/O error" in machine1.succeed("dmesg")
    # The machine and its other disks go on.
    machine1.succeed("dd if=/dev/vdg of=/dev/null bs=1M count=4 iflag=direct", "blkdiscard /dev/vdg")
    machine1.succeed("dd if=/dev/urandom of=/dev/vdg bs=1M count=4 oflag=direct")

with subtest("an image is cut short"):
    with open(full, "r+b") as image:
        image.truncate(MIB)
    machine1.fail("dd if=/dev/vdg of=/dev/null bs=1M skip=2 count=1 iflag=direct")
    machine1.succeed("dd if=/dev/vdg of=/dev/null bs=512k count=1 iflag=direct")
    with open(full, "r+b") as image:
        image.truncate(64 * MIB)

with subtest("power cuts in the middle of writes"):
    for cut in range(CUTS):
        machine1.succeed(
            "mkdir -p /run/f && mount /dev/vdf /run/f",
            f"test $(ls /run/f | grep -c kept) = {cut}",
            "(cd /run/f && find . -name 'sum-*' -exec sha256sum -c {} +)",
            f"(cd /run/f && head -c 200000 /dev/urandom >kept-{cut} && sha256sum kept-{cut} >sum-{cut} && sync)",
            "(while :; do for n in 1 2 3 4 5 6 7 8; do head -c 150000 /dev/urandom >/run/f/busy-$n; sync -d /run/f/busy-$n; "
            "done; rm /run/f/busy-*; done) >&2 &",
            "sleep 1",
        )
        machine1.crash()
        machine1.start()
        machine1.wait_for_unit("multi-user.target")
    machine1.succeed("mkdir -p /run/f && mount /dev/vdf /run/f", "(cd /run/f && sha256sum -c sum-*)")
    machine1.fail("dmesg | grep -i 'ext4-fs error'")

with subtest("disks outlive power cuts"):
    for disk in ["c", "d", "e"]:
        machine1.succeed(
            f"mkdir -p /run/{disk} && mount /dev/vd{disk} /run/{disk}",
            f"grep -x changed /run/{disk}/hello && sha256sum </run/{disk}/noise | cmp - /run/{disk}/sum",
            f"umount /run/{disk}",
        )
    machine1.succeed("mkdir -p /run/b && mount /dev/vdb /run/b", "grep -x 0 /run/b/own")
    machine1.succeed("head -c 4 /dev/vdh | grep mine", "head -c 4 /dev/vdi | grep mine")
    machine1.succeed("mkdir -p /run/j && mount /dev/vdj /run/j", "grep kept /run/j/file")

machine1.shutdown()

with subtest("what was only read is as it was"):
    assert digests() == before

with subtest("qemu-img finds nothing wrong"):
    for name in ["top.qcow2", "over.qcow2"]:
        check = subprocess.run(["qemu-img", "check", folder / name], capture_output=True, text=True)
        assert check.returncode == 0, check
