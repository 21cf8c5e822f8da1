# Machines without a disk, whose userland is one folder of the host: `new` mounts it by virtio-fs, `old` by 9P.
import hashlib
from pathlib import Path

root = Path(driver.out_dir) / "root"


def digest_on_host(path):
    """Links are the guest's to follow."""
    return hashlib.sha256((root / path.lstrip("/")).read_bytes()).hexdigest()


KINDS = {new: ("virtiofs", ""), old: ("9p", "trans=virtio,version=9p2000.L,msize=16384,")}

start_all()
for machine, (kind, options) in KINDS.items():
    with subtest(f"a userland by {kind}"):
        machine.wait_for_unit("multi-user.target")
        assert machine.succeed("ls /sys/block").split() == [], "there is a disk"
        assert f"root={kind}:nix-store" in machine.succeed("cat /proc/cmdline")
        assert machine.succeed("systemctl --failed --no-legend") == ""
        # A program and its libraries, mapped; what is read is what the host has.
        sums = machine.succeed("sha256sum /usr/bin/bash /etc/passwd /usr/lib/x86_64-linux-gnu/libc.so.6")
        for line in sums.splitlines():
            digest, path = line.split()
            assert digest == digest_on_host(path), path
        # What the guest changes is its own.
        machine.succeed("echo changed >/etc/issue && rm /etc/debian_version && mkdir /usr/local/new && touch /usr/bin/new")
        machine.succeed(f"mkdir -p /tmp/shared /tmp/xchg && mount -t {kind} -o {options}rw shared /tmp/shared")
        machine.succeed(f"mount -t {kind} -o {options}rw xchg /tmp/xchg")

with subtest("what is exchanged"):
    for machine in KINDS:
        name = machine.name
        machine.succeed(f"hostname >/tmp/xchg/name; hostname >/tmp/shared/{name}")
        assert (Path(driver.out_dir) / f"xchg-{name}" / "name").read_text() == f"{name}\n"
        assert (machine.shared_dir / name).read_text() == f"{name}\n"
    for machine, other in [(new, old), (old, new)]:
        assert machine.wait_until_succeeds(f"cat /tmp/shared/{other.name}") == f"{other.name}\n"

for machine in KINDS:
    machine.shutdown()

with subtest("the host's folder is as it was"):
    assert not (root / "usr/bin/new").exists() and not (root / "usr/local/new").exists()
    assert "changed" not in (root / "etc/issue").read_text()
