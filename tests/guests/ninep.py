# Folders of the host by 9P, as images of before August 2026 mount them: a writable one, one that nobody can change, and one on
# a file system that keeps extended attributes, each without a cache and with one. The host looks at what comes of it.
import hashlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path("tests/guests/programs").absolute()))
from shared_folder import check_content, check_refusals, fill, guest_python

FOLDER = Path(str(driver.out_dir))
OPEN, FIXED, KEPT = (FOLDER / tag for tag in ("open", "fixed", "kept"))
OPTIONS = "trans=virtio,version=9p2000.L,msize=524288"

# A file system of its own with all that Linux has, but for attributes.
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G,mode=755", "open", str(OPEN)], check=True)
big = fill(FIXED, 12)

start_all()
machine.wait_for_unit("multi-user.target")


def mount(tag: str, cache: str) -> None:
    machine.succeed(f"mkdir -p /run/{tag}", f"mount -t 9p -o {OPTIONS},cache={cache} {tag} /run/{tag}")


def reads() -> None:
    check_content(machine, FIXED, big, "v9fs")


def refuses_changes() -> None:
    check_refusals(machine, FIXED)


def writes() -> None:
    machine.succeed("head -c 12000000 /dev/urandom >/run/big", "cp /run/big /run/open/big", "sync /run/open/big")
    expected = machine.succeed("sha256sum </run/big").split()[0]
    assert hashlib.sha256((OPEN / "big").read_bytes()).hexdigest() == expected
    machine.succeed("echo 3 >/proc/sys/vm/drop_caches")
    assert machine.succeed("sha256sum </run/open/big").split()[0] == expected
    machine.succeed("cd /run/open; echo a >one; ln one two; ln -s one three; mkdir d; mv two d/; echo b >>d/two")
    machine.succeed("sync -f /run/open")
    assert (OPEN / "d" / "two").read_text() == "a\nb\n"
    assert machine.succeed("cat /run/open/d/two; readlink /run/open/three") == "a\nb\none\n"
    assert os.stat(OPEN / "one").st_ino == os.stat(OPEN / "d" / "two").st_ino
    assert machine.succeed("stat -c %i /run/open/one") == machine.succeed("stat -c %i /run/open/d/two")
    machine.succeed("cd /run/open; chmod 4751 one; touch -d '2001-02-03 04:05:06.123456789 UTC' one")
    assert os.stat(OPEN / "one").st_mode & 0o7777 == 0o4751
    # Linux's client has times of whole seconds to set.
    assert os.stat(OPEN / "one").st_mtime_ns // 10**9 == 981173106
    name = "x" * 255
    machine.succeed(f"echo long >/run/open/{name}", f"grep long /run/open/{name}", f"rm /run/open/{name}")
    assert "File name too long" in machine.succeed(f"touch /run/open/{name}y 2>&1 || true")
    machine.succeed("cd /run/open; mkfifo pipe; (cat pipe >/run/out &) ; echo through >pipe; sleep 1; grep through /run/out")
    machine.succeed("cd /run/open; chmod 777 d; setpriv --reuid 1000 --regid 1000 --clear-groups touch d/theirs")
    assert machine.succeed("stat -c '%u %g' /run/open/d/theirs") == "1000 1000\n"
    assert os.stat(OPEN / "d" / "theirs").st_uid == 1000
    machine.succeed("cd /run/open; rm -r d pipe three one")


def large() -> None:
    machine.succeed("cd /run/open; dd if=/run/big of=large bs=1M count=3 seek=5000 conv=notrunc; truncate -s 6G large")
    machine.succeed("sync /run/open/large")
    assert os.stat(OPEN / "large").st_size == 6 << 30
    machine.succeed("echo 3 >/proc/sys/vm/drop_caches")
    tail = "dd if=/run/open/large bs=1M count=3 skip=5000"
    assert machine.succeed(f"{tail} | sha256sum") == machine.succeed("head -c 3M /run/big | sha256sum")
    assert int(machine.succeed("stat -c %b /run/open/large")) < 16384
    machine.succeed("rm /run/open/large")


def programs(has_mmap: bool) -> None:
    guest_python(
        machine,
        f"has_mmap = {has_mmap}"
        + """
import fcntl, mmap, os
os.chdir("/run/open")
with open("mapped", "wb+") as file:
    file.truncate(1 << 20)
    if has_mmap:
        with mmap.mmap(file.fileno(), 1 << 20) as memory:
            memory[5:10] = b"hello"
            memory[-3:] = b"end"
            memory.flush()
    else:
        os.pwrite(file.fileno(), b"hello", 5)
content = open("mapped", "rb").read()
assert content[5:10] == b"hello" and len(content) == 1 << 20
gone = os.open("gone", os.O_CREAT | os.O_RDWR)
os.unlink("gone")
os.write(gone, b"still there")
assert os.pread(gone, 100, 0) == b"still there"
os.ftruncate(gone, 3)
assert os.fstat(gone).st_size == 3
os.close(gone)
with open("text", "w") as file:
    file.write("first\\n")
with open("text", "a") as file:
    file.write("second\\n")
    file.flush()
    file.write("third\\n")
assert open("text").read() == "first\\nsecond\\nthird\\n"
try:
    os.open("text", os.O_CREAT | os.O_EXCL)
    raise SystemExit("an exclusive open found a file")
except FileExistsError:
    pass
os.rename("text", "renamed")
os.mkdir("folder")
os.rename("renamed", "folder/renamed")
os.sync()
"""
    )
    assert (OPEN / "mapped").read_bytes()[5:10] == b"hello"
    assert (OPEN / "folder" / "renamed").read_text() == "first\nsecond\nthird\n"


def locks() -> None:
    # In a process of its own: record locks are a process's, which loses them when it closes any descriptor of the file, and
    # this one serves the guest.
    hold = (
        f"import fcntl, sys; f = open({str(OPEN / 'records')!r}, 'w+'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5);"
        " print('held', flush=True); sys.stdin.read(); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)"
    )
    with subprocess.Popen(["python3", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = guest_python(
            machine,
            "import fcntl\nf = open('/run/open/records', 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)\n"
            "try:\n    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10)\nexcept OSError as error:\n    print(error.errno)"
        )
        assert refused == "11\n", refused
        # The guest's locks went with its process.
        holder.stdin.close()
        assert holder.wait() == 0
    guest_python(
        machine,
        "import fcntl\nf = open('/run/open/records', 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nf.close()"
    )


def attributes() -> None:
    machine.succeed("cd /run/kept; touch f; setfattr -n user.colour -v blue f; getfattr -n user.colour f | grep blue")
    assert os.getxattr(KEPT / "f", "user.colour") == b"blue"
    machine.succeed("cd /run/kept; getfattr -d f | grep user.colour; setfattr -x user.colour f")
    machine.fail("getfattr -n user.colour /run/kept/f")
    machine.fail("setfattr -n trusted.colour -v blue /run/kept/f")


for cache in ("none", "loose"):
    for tag in ("open", "fixed", "kept"):
        mount(tag, cache)
    for part in (reads, refuses_changes, writes, large, locks, attributes):
        with subtest(f"cache={cache}: {part.__name__}"):
            part()
    with subtest(f"cache={cache}: programs"):
        programs(has_mmap=cache != "none")
    machine.succeed("rm -r /run/open/*", "umount /run/open /run/fixed /run/kept")
    assert os.listdir(OPEN) == []

with subtest("cache=mmap: programs"):
    mount("open", "mmap")
    programs(has_mmap=True)
    machine.succeed("rm -r /run/open/*", "umount /run/open")

with subtest("what the host changes meanwhile"):
    mount("open", "none")
    (OPEN / "file").write_text("one")
    assert machine.succeed("cat /run/open/file") == "one"
    (OPEN / "file").write_text("another")
    (OPEN / "new").write_text("new")
    assert machine.succeed("cat /run/open/file /run/open/new") == "anothernew"
    (OPEN / "file").unlink()
    machine.fail("cat /run/open/file")
    machine.succeed("umount /run/open")

machine.shutdown()
subprocess.run(["umount", str(OPEN)], check=True)
