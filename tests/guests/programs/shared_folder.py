"""What the tests of shares have in common, whatever protocol their guest mounts them by.

`fixed` is a folder that nobody can change, at /run/fixed in the guest.
"""

import hashlib
import os

# Each would change something.
CHANGES = (
    "echo x >/run/fixed/file",
    "touch /run/fixed/new",
    "mkdir /run/fixed/new",
    "rm /run/fixed/file",
    "mv /run/fixed/file /run/fixed/other",
    "ln /run/fixed/file /run/fixed/other",
    "ln -s a /run/fixed/other",
    "chmod 600 /run/fixed/file",
    "mkfifo /run/fixed/pipe",
)
ENTRIES = 300


def fill(fixed, mib):
    """Puts files into it, one of them of so many MiB; gives that one's content."""
    (fixed / "folder" / ("n" * 255)).mkdir(parents=True)
    (fixed / "file").write_text("from the host\n")
    (fixed / "link").symlink_to("file")
    (fixed / "up").symlink_to("../../..")
    for number in range(ENTRIES):
        (fixed / "folder" / f"entry-{number}").write_text(str(number))
    big = os.urandom(mib << 20)
    (fixed / "big").write_bytes(big)
    os.chown(fixed / "file", 65534, 65534)
    return big


def check_content(machine, fixed, big, kind):
    """Whether the guest sees it as it is, on a file system that `stat -f` calls `kind`."""
    assert machine.succeed("cat /run/fixed/file /run/fixed/link") == "from the host\n" * 2
    assert machine.succeed("sha256sum </run/fixed/big").split()[0] == hashlib.sha256(big).hexdigest()
    assert machine.succeed("stat -c '%u %g' /run/fixed /run/fixed/file").split() == ["0"] * 4
    names = machine.succeed("ls /run/fixed/folder").split()
    assert sorted(names) == sorted(os.listdir(fixed / "folder")), names
    assert machine.succeed(f"cat /run/fixed/folder/entry-{ENTRIES - 1}") == str(ENTRIES - 1)
    # The entries, the folder with the long name, and the line of the total.
    assert int(machine.succeed("ls -l /run/fixed/folder | wc -l")) == ENTRIES + 2
    assert kind in machine.succeed("stat -f -c %T /run/fixed; grep fixed /proc/mounts")
    assert int(machine.succeed("stat -f -c %b /run/fixed")) > 0
    # A link out of it leads to the guest's own files.
    assert machine.succeed("ls /run/fixed/up") == machine.succeed("ls /")


def check_refusals(machine, fixed):
    """Whether nothing changes in it."""
    for command in CHANGES:
        assert "Read-only file system" in machine.succeed(f"({command}) 2>&1 || true"), command
    assert (fixed / "file").read_text() == "from the host\n"
    assert sorted(os.listdir(fixed)) == ["big", "file", "folder", "link", "up"]


def guest_python(machine, text):
    """Runs a program in the guest; what it printed."""
    return machine.succeed("cat >/run/script.py <<'END'\n" + text + "\nEND\n", "python3 /run/script.py")
