# Folders of the host in a guest: a writable one, one that nobody can change, one that the host changes meanwhile, and one on
# a file system that keeps extended attributes. The guest is not told anything of Snowboot: it mounts them by their tags.
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path("tests/guests/programs").absolute()))
from shared_folder import check_content, check_refusals, fill, guest_python

FOLDER = Path(str(driver.out_dir))
SHARED, FIXED, LIVE, KEPT, GONE = (FOLDER / tag for tag in ("shared", "fixed", "live", "kept", "gone"))

# A file system of its own with all that Linux has, but for attributes.
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G,mode=755", "share", str(SHARED)], check=True)
big = fill(FIXED, 24)

start_all()
machine.wait_for_unit("multi-user.target")
for tag in ("shared", "fixed", "live", "kept", "gone"):
    machine.succeed(f"mkdir -p /run/{tag}", f"mount -t virtiofs {tag} /run/{tag}")

with subtest("reading what is fixed"):
    check_content(machine, FIXED, big, "virtiofs")

with subtest("nothing changes in what is fixed"):
    check_refusals(machine, FIXED)

with subtest("writing"):
    machine.succeed("head -c 30000000 /dev/urandom >/run/big", "cp /run/big /run/shared/big", "sync /run/shared/big")
    expected = machine.succeed("sha256sum </run/big").split()[0]
    assert hashlib.sha256((SHARED / "big").read_bytes()).hexdigest() == expected
    machine.succeed("echo 3 >/proc/sys/vm/drop_caches")
    assert machine.succeed("sha256sum </run/shared/big").split()[0] == expected
    machine.succeed("cd /run/shared; echo a >one; ln one two; ln -s one three; mkdir d; mv two d/; echo b >>d/two")
    assert machine.succeed("cat /run/shared/one /run/shared/three; stat -c %h /run/shared/one") == "a\nb\n" * 2 + "2\n"
    assert (SHARED / "d" / "two").read_text() == "a\nb\n"
    assert os.stat(SHARED / "one").st_ino == os.stat(SHARED / "d" / "two").st_ino
    assert machine.succeed("stat -c %i /run/shared/one") == machine.succeed("stat -c %i /run/shared/d/two")
    machine.succeed("cd /run/shared; chmod 4751 one; touch -d '2001-02-03 04:05:06.123456789 UTC' one")
    assert os.stat(SHARED / "one").st_mode & 0o7777 == 0o4751
    assert os.stat(SHARED / "one").st_mtime_ns == 981173106_123456789
    name = "x" * 255
    machine.succeed(f"echo long >/run/shared/{name}", f"rm /run/shared/{name}")
    assert "File name too long" in machine.succeed(f"touch /run/shared/{name}y 2>&1 || true")
    machine.succeed("cd /run/shared; mkfifo pipe; (cat pipe >out &) ; echo through >pipe; sleep 1; grep through out")
    machine.succeed("cd /run/shared; rm -r d pipe out three one")

with subtest("large files"):
    machine.succeed("cd /run/shared; dd if=/run/big of=large bs=1M count=3 seek=5000 conv=notrunc; truncate -s 6G large")
    assert os.stat(SHARED / "large").st_size == 6 << 30
    tail = "dd if=/run/shared/large bs=1M count=3 skip=5000"
    assert machine.succeed(f"{tail} | sha256sum") == machine.succeed("head -c 3M /run/big | sha256sum")
    assert int(machine.succeed("stat -c %b /run/shared/large")) < 16384
    machine.succeed("rm /run/shared/large")

with subtest("what programs do with files"):
    guest_python(
        machine,
        """
import errno, fcntl, mmap, os
os.chdir("/run/shared")
with open("mapped", "wb+") as file:
    file.truncate(1 << 20)
    with mmap.mmap(file.fileno(), 1 << 20) as memory:
        memory[5:10] = b"hello"
        memory[-3:] = b"end"
        memory.flush()
content = open("mapped", "rb").read()
assert content[5:10] == b"hello" and content[-3:] == b"end" and len(content) == 1 << 20
nameless = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(nameless, b"secret")
os.link(f"/proc/self/fd/{nameless}", "named", src_dir_fd=nameless, follow_symlinks=True)
assert open("named", "rb").read() == b"secret"
gone = os.open("gone", os.O_CREAT | os.O_RDWR)
os.unlink("gone")
os.write(gone, b"still there")
assert os.pread(gone, 100, 0) == b"still there" and os.fstat(gone).st_nlink == 0
os.ftruncate(gone, 3)
assert os.fstat(gone).st_size == 3
os.close(gone)
hole = os.open("holes", os.O_CREAT | os.O_RDWR)
os.posix_fallocate(hole, 0, 4096)
os.pwrite(hole, b"x", 1 << 20)
os.fsync(hole)
assert os.lseek(hole, 4096 * 2, os.SEEK_DATA) == 1 << 20
assert os.copy_file_range(nameless, hole, 6, 0, 10) == 6
appended = os.open("named", os.O_WRONLY | os.O_APPEND)
os.write(appended, b"!")
assert open("named", "rb").read() == b"secret!"
try:
    os.open("named", os.O_CREAT | os.O_EXCL)
    raise SystemExit("an exclusive open found a file")
except FileExistsError:
    pass
one, two = open("named", "rb+"), open("named", "rb+")
fcntl.flock(one, fcntl.LOCK_EX)
try:
    fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    raise SystemExit("two have the same lock")
except BlockingIOError:
    pass
one.close()
fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
"""
    )
    assert (SHARED / "mapped").read_bytes()[5:10] == b"hello"

with subtest("locks hold against the host and are waited for"):
    machine.succeed("systemd-run --unit=locker sh -c 'exec 3<>/run/shared/lock; flock 3; touch /run/shared/locked; sleep 20' >&2")
    machine.wait_for_file("/run/shared/locked", timeout=60)
    import fcntl

    with (SHARED / "lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise SystemExit("the host got the guest's lock")
        except BlockingIOError:
            pass
    # In a process of its own: record locks are a process's, which loses them when it closes any descriptor of the file, and
    # this one serves the guest.
    hold = (
        f"import fcntl, sys; f = open({str(SHARED / 'records')!r}, 'w+'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5);"
        " print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(["python3", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = guest_python(
            machine,
            "import fcntl\nf = open('/run/shared/records', 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)\n"
            "try:\n    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10)\nexcept OSError as error:\n    print(error.errno)"
        )
        assert refused == "11\n", refused
        machine.succeed(
            "systemd-run --unit=waiter python3 -c \"import fcntl; f = open('/run/shared/records', 'r+');"
            " open('/run/shared/asked', 'w'); fcntl.lockf(f, fcntl.LOCK_EX, 5, 10); open('/run/shared/got', 'w')\" >&2"
        )
        machine.wait_for_file("/run/shared/asked", timeout=60)
        # Everything else goes on meanwhile.
        machine.succeed("sleep 1; ls /run/shared; test ! -e /run/shared/got")
        holder.stdin.close()
    machine.wait_for_file("/run/shared/got", timeout=60)

with subtest("what the host changes meanwhile"):
    (LIVE / "file").write_text("one")
    assert machine.succeed("cat /run/live/file") == "one"
    (LIVE / "file").write_text("another")
    (LIVE / "new").write_text("new")
    assert machine.succeed("cat /run/live/file /run/live/new") == "anothernew"
    (LIVE / "file").unlink()
    machine.fail("cat /run/live/file")
    machine.succeed("echo guest >/run/live/guest")
    assert (LIVE / "guest").read_text() == "guest\n"

with subtest("extended attributes"):
    machine.succeed("cd /run/kept; touch f; setfattr -n user.colour -v blue f; getfattr -n user.colour f | grep blue")
    assert os.getxattr(KEPT / "f", "user.colour") == b"blue"
    machine.succeed("cd /run/kept; getfattr -d f | grep user.colour; setfattr -x user.colour f")
    machine.fail("getfattr -n user.colour /run/kept/f")
    machine.fail("setfattr -n trusted.colour -v blue /run/kept/f")

with subtest("the host is full"):
    free = os.statvfs(SHARED)
    with (SHARED / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free.f_bavail * free.f_frsize - (4 << 20))
    said = machine.fail("dd if=/dev/zero of=/run/shared/filler bs=1M count=16 conv=fsync 2>&1")
    assert "No space left on device" in said, said
    os.unlink(SHARED / "ballast")
    # What the guest could not write after that is an error of the next who syncs this file.
    machine.succeed("rm /run/shared/filler", "dd if=/dev/zero of=/run/shared/other bs=1M count=16 conv=fsync")
    machine.succeed("rm /run/shared/other")

with subtest("the host cuts a file that is mapped"):
    (GONE / "mapped").write_bytes(b"x" * (8 << 20))
    machine.succeed(
        "systemd-run --unit=mapper python3 -c \"import mmap, os, time; f = open('/run/gone/mapped', 'rb');"
        " m = mmap.mmap(f.fileno(), 8 << 20, prot=mmap.PROT_READ); m[0]; open('/run/ready', 'w');\nwhile not"
        " os.path.exists('/run/cut'): time.sleep(0.1)\nseen = str(m[7 << 20]); open('/run/seen', 'w').write(seen)\" >&2"
    )
    machine.wait_for_file("/run/ready", timeout=60)
    os.truncate(GONE / "mapped", 100)
    machine.succeed("touch /run/cut")
    machine.wait_until_fails("systemctl is-active mapper", timeout=60)
    # Which of both it is depends on when Linux learns of the new size.
    seen = machine.succeed("cat /run/seen 2>/dev/null || systemctl show -P ExecMainStatus mapper").strip()
    assert seen in ("0", "7"), f"neither zeros nor SIGBUS: {seen}"
    machine.wait_until_succeeds("test $(cat /run/gone/mapped | wc -c) = 100", timeout=60)

with subtest("the folder goes away"):
    machine.succeed(
        "systemd-run --unit=holder sh -c 'exec 7>>/run/gone/held; touch /run/holds;"
        " while ! test -e /run/went; do sleep 0.1; done; echo still >&7 && touch /run/written' >&2"
    )
    machine.wait_for_file("/run/holds", timeout=60)
    shutil.rmtree(GONE)
    assert machine.execute("timeout 30 ls -A /run/gone 2>/dev/null")[1] == ""
    machine.succeed("touch /run/went")
    machine.wait_for_file("/run/written", timeout=60)
    # One that comes in its place is another.
    GONE.mkdir()
    for command in ("cat /run/gone/mapped", "touch /run/gone/new", "mkdir /run/gone/new"):
        status, said = machine.execute(f"timeout 30 {command} 2>&1")
        assert status == 1 and ("No such file" in said or "Stale file handle" in said), f"{command}: {status}, {said}"
    assert os.listdir(GONE) == []
    machine.succeed("echo on >/run/kept/on", "umount /run/gone")

with subtest("after mounting it again"):
    machine.succeed("umount /run/shared", "mount -t virtiofs shared /run/shared", "test -e /run/shared/mapped")
    machine.succeed("rm -r /run/shared/*")
    assert os.listdir(SHARED) == []

machine.shutdown()
subprocess.run(["umount", str(SHARED)], check=True)
