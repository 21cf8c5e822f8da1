# Files and folders between host and guest, and much text through the shell.
import hashlib
import pathlib
import tempfile
import time

here = pathlib.Path(tempfile.mkdtemp())
PORT = "/dev/virtio-ports/org.snowboot.files.0"
# They need many bytes that are all different and known on both sides.
MIB = bytes(range(256)) * 4096


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def sum_in_guest(path):
    return machine.succeed(f"sha256sum '{path}'").split()[0]


machine.wait_for_unit("multi-user.target")

with subtest("the shell is the first port, and the files' port no console"):
    assert machine.succeed("cat /sys/class/virtio-ports/vport*p1/name").strip() == "org.snowboot.files.0"
    machine.succeed("test -c /dev/hvc0", f"test -c {PORT} || test -c /dev/vport0p1")
    # Linux makes eight hvc devices whatever there is; only a port that is no console has a name.
    assert machine.succeed("cat /sys/class/virtio-ports/*/name") == "org.snowboot.files.0\n"

with subtest("a file there and back"):
    (here / "big").write_bytes(b"".join(hashlib.sha256(str(i).encode()).digest() * 32768 for i in range(16)))
    (here / "big").chmod(0o751)
    began = time.monotonic()
    machine.copy_from_host(str(here / "big"), "/tmp/made/for/it")
    between = time.monotonic()
    assert sum_in_guest("/tmp/made/for/it") == sha256(here / "big")
    assert machine.succeed("stat -c '%a %U %G' /tmp/made/for/it") == "751 root root\n"
    back = time.monotonic()
    machine.copy_from_machine("/tmp/made/for/it", "back")
    ended = time.monotonic()
    assert sha256(driver.out_dir / "back/it") == sha256(here / "big")
    assert (driver.out_dir / "back/it").stat().st_mode & 0o777 == 0o751
    log.info(f"16 MiB: {16 / (between - began):.1f} MiB/s in, {16 / (ended - back):.1f} MiB/s out")

with subtest("a folder there and back"):
    tree = here / "a tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    for name in ["a b", "it's \"so\"", "new\nline", "-n", "$HOME", "x" * 255]:
        (tree / "sub" / name).write_text(name)
    (tree / "program").write_text("#!/bin/sh\necho runs\n")
    (tree / "program").chmod(0o755)
    (tree / "link").symlink_to("sub/a b")
    machine.copy_from_host(tree, "/tmp/tree")
    assert machine.succeed("/tmp/tree/program; cat /tmp/tree/link; ls /tmp/tree/sub | wc -l") == "runs\na b8\n"
    machine.copy_from_host(tree, "/tmp/tree")
    machine.succeed("test -d '/tmp/tree/a tree/sub/empty'", "chown -R nobody /tmp/tree")
    machine.succeed("mkfifo /tmp/tree/pipe", "mknod /tmp/tree/device c 1 3", "ln -s /etc/shadow /tmp/tree/out")
    machine.copy_from_machine("/tmp/tree", "back")
    for copied in [driver.out_dir / "back/tree", driver.out_dir / "back/tree/a tree"]:
        assert sorted(os.listdir(copied / "sub")) == sorted(os.listdir(tree / "sub"))
        assert all(not file.is_file() or file.read_text() == file.name for file in (copied / "sub").iterdir())
        assert os.access(copied / "program", os.X_OK) and (copied / "link").is_symlink()
    assert not (driver.out_dir / "back/tree/pipe").exists() and not (driver.out_dir / "back/tree/device").exists()

with subtest("files whose size nobody knows, and none at all"):
    machine.copy_from_machine("/proc/version")
    assert (driver.out_dir / "version").read_text() == machine.succeed("cat /proc/version")
    machine.copy_from_host("/proc/version", "/tmp/version")
    assert machine.succeed("cat /tmp/version") == pathlib.Path("/proc/version").read_text()
    machine.copy_from_machine("/dev/null")
    assert (driver.out_dir / "null").read_bytes() == b""
    with t.assertRaises(FileNotFoundError):
        machine.copy_from_host("/no/such/file", "/tmp/x")
    with t.assertRaisesRegex(Exception, "no such file or folder"):
        machine.copy_from_machine("/no/such/file")

with subtest("through the shell"):
    (here / "small").write_bytes(MIB[:200_000])
    machine.copy_from_host_via_shell(here / "small", "/tmp/by/shell")
    assert sum_in_guest("/tmp/by/shell") == sha256(here / "small")

with subtest("a guest that breaks off, and goes on"):
    machine.succeed("mkdir /tmp/full", "mount -t tmpfs -o size=1m none /tmp/full")
    with t.assertRaisesRegex(Exception, "exit code"):
        machine.copy_from_host(here / "big", "/tmp/full/big")
    assert machine.succeed("ls -A /tmp/full") == ""
    machine.copy_from_host(here / "small", "/tmp/full/small")
    assert sum_in_guest("/tmp/full/small") == sha256(here / "small")

with subtest("much text"):
    began = time.monotonic()
    text = machine.succeed("head -c 6M /dev/zero | tr '\\0' x | tee /tmp/text")
    log.info(f"6 MiB of output: {6 / (time.monotonic() - began):.2f} MiB/s")
    assert hashlib.sha256(text.encode()).hexdigest() == sum_in_guest("/tmp/text")
    words = "x" * 400_000
    assert machine.succeed(f"echo {words}").strip() == words

machine.shutdown()
