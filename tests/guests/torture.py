# Shared folders under everything that programs do to files, by virtio-fs and by 9P: call by call beside ext4, at random beside a
# copy in memory, and by many processes on two machines at a time beside what the host sees.
import hashlib
import sys
from pathlib import Path

PROGRAMS = Path("tests/guests/programs").absolute()
sys.path.insert(0, str(PROGRAMS))
from stress import listing

shared = machine1.shared_dir
# Of this user alone otherwise, so that no other user of a guest would get anywhere in it.
shared.chmod(0o755)
MOUNTS = {"fs": "virtiofs -o rw shared", "old": "9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap old"}
# What Linux's own client has not on such a mount, so that the server is not even asked: 9P2000.L has no message for the first four, and
# times are whole seconds.
LACKING = {
    "fs": "",
    "old": "rename-flags=EINVAL tmpfile=ENOTSUP fallocate=ENOTSUP seek-data nanoseconds",
}


def seen_by_guests(output):
    """What the processes of `stress.py` say that their folders hold."""
    found = {}
    for line in output.splitlines():
        process, _, rest = line.partition("/")
        found.setdefault(process, []).append(rest)
    return found


start_all()
for machine in machine1, machine2:
    machine.wait_for_unit("multi-user.target")
    for name, mount in MOUNTS.items():
        machine.succeed(f"mkdir -p /run/{name}", f"mount -t {mount} /run/{name}")
    machine.copy_from_host(str(PROGRAMS), "/run/programs")
machine1.succeed("mkfs.ext4 -q /dev/disk/by-id/virtio-data", "mkdir /run/reference")
machine1.succeed("mount /dev/disk/by-id/virtio-data /run/reference")

for name in MOUNTS:
    with subtest(f"{name}: call by call"):
        machine1.succeed(f"mkdir /run/{name}/calls-{name} /run/reference/{name}")
        folders = f"/run/{name}/calls-{name} /run/reference/{name}"
        status, output = machine1.execute(f"python3 /run/programs/posix.py {folders} {LACKING[name]}", timeout=600)
        machine1.log(output)
        assert status == 0, f"{name} differs from ext4"

    with subtest(f"{name}: one file at random"):
        for seed in 1, 2:
            file = f"random-{name}-{seed}"
            machine1.log(machine1.succeed(f"python3 /run/programs/fsx.py /run/{name}/{file} {seed} 1500", timeout=600))
            inside = machine1.succeed(f"sha256sum </run/{name}/{file}").split()[0]
            assert hashlib.sha256((shared / file).read_bytes()).hexdigest() == inside, file

    with subtest(f"{name}: many processes on two machines"):
        place = f"stress-{name}"
        (shared / place).mkdir()
        program = f"python3 /run/programs/stress.py /run/{name}/{place}"
        machine2.succeed(f"({program} two 2 300 3 >/run/two 2>&1; echo $? >/run/{name}.status) >&2 &")
        one = machine1.succeed(f"{program} one 1 300 3", timeout=600)
        machine2.wait_for_file(f"/run/{name}.status", timeout=600)
        two = machine2.succeed("cat /run/two")
        assert machine2.succeed(f"cat /run/{name}.status") == "0\n", two
        said = seen_by_guests(one) | seen_by_guests(two)
        assert len(said) == 6, sorted(said)
        for process, lines in said.items():
            assert lines == listing(shared / place / process), process

for machine in machine1, machine2:
    machine.succeed(*(f"umount /run/{name}" for name in MOUNTS))
    machine.shutdown()
