"""What a file system does, call by call, beside what another one does: `python3 posix.py FOLDER REFERENCE [CALL[=ERROR]]...`.

What the first has not is given as arguments. The reference then does without it, too, and is as the kernel leaves the first: a call
is undone and fails with that error, times are of whole seconds, all of a file is data.
Each case runs in an empty folder of both, and gives a list of outcomes: what a call returned, or the name of its error. The
two lists must be the same. The reference is a file system of the kernel's own, so nothing here says what is right.
Cases are picked after what pjdfstest looks at: names, types, permissions, times, link counts, renames of everything onto
everything, open flags, sparse files, locks, attributes.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
NOREPLACE, EXCHANGE = 1, 2
SOMEONE = 1234
CASES = []


class Outcomes:
    """The outcomes of a case so far."""

    def __init__(self, folder, lacking):
        self.folder = folder
        self.lacking = lacking
        self.list = []

    def refuse(self, call):
        """Fails where this file system is to be one that has not this call."""
        if call in self.lacking:
            raise OSError(getattr(errno, self.lacking[call]), call)

    def at(self, name):
        return os.path.join(self.folder, name)

    def do(self, what, call):
        """Notes what a call returns; gives it, too."""
        try:
            value = call()
        except OSError as error:
            self.list.append((what, errno.errorcode.get(error.errno, error.errno)))
            return None
        self.list.append((what, value if isinstance(value, (int, str, bytes, tuple, list, type(None))) else "done"))
        return value

    def look(self, name):
        """Notes what a name is."""

        def look():
            it = os.lstat(self.at(name))
            size = it.st_size if not stat.S_ISDIR(it.st_mode) else 0
            links = it.st_nlink if not stat.S_ISDIR(it.st_mode) else 0
            return (oct(it.st_mode), it.st_uid, it.st_gid, size, links)

        self.do(f"look {name!r:.40}", look)

    def write(self, name, content=b"content"):
        with open(self.at(name), "wb") as file:
            file.write(content)


def case(function):
    CASES.append(function)
    return function


def fallocate(o, file, mode, offset, length):
    if length > 0:
        o.refuse("fallocate")
    if LIBC.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def renameat2(o, old, new, flags):
    here = -100
    if LIBC.renameat2(here, old.encode(), here, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
    if flags and "rename-flags" in o.lacking:
        LIBC.renameat2(here, new.encode(), here, old.encode(), flags)
        o.refuse("rename-flags")


def tmpfile(o, folder, mode):
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, mode)
    if "tmpfile" in o.lacking:
        os.close(file)
        o.refuse("tmpfile")
    return file


def seek_data(o, file, offset):
    return offset if "seek-data" in o.lacking else os.lseek(file.fileno(), offset, os.SEEK_DATA)


def utime(o, name, stamps):
    if "nanoseconds" in o.lacking:
        stamps = tuple(stamp // 10**9 * 10**9 for stamp in stamps)
    os.utime(o.at(name), ns=stamps)


def make(o, kind, name):
    """Something of each kind."""
    path = o.at(name)
    match kind:
        case "file":
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(file, b"content")
            os.close(file)
        case "folder":
            os.mkdir(path)
        case "full":
            os.mkdir(path)
            o.write(name + "/in")
        case "link":
            os.symlink("nowhere", path)
        case "pipe":
            os.mkfifo(path)
        case "none":
            pass


KINDS = ["none", "file", "folder", "full", "link", "pipe"]


@case
def renames(o):
    for flags in 0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE:
        for old in KINDS:
            for new in KINDS:
                a, b = f"{flags}-{old}-{new}-a", f"{flags}-{old}-{new}-b"
                make(o, old, a)
                make(o, new, b)
                o.do(f"rename {flags} {old} to {new}", lambda: renameat2(o, o.at(a), o.at(b), flags))
                o.look(a)
                o.look(b)


@case
def renames_of_itself(o):
    o.write("file")
    os.link(o.at("file"), o.at("twin"))
    os.mkdir(o.at("folder"))
    os.mkdir(o.at("folder/below"))
    o.do("onto its twin", lambda: os.rename(o.at("file"), o.at("twin")))
    o.do("onto itself", lambda: os.rename(o.at("file"), o.at("file")))
    o.do("below itself", lambda: os.rename(o.at("folder"), o.at("folder/below/it")))
    o.do("onto its parent", lambda: os.rename(o.at("folder/below"), o.at("folder")))
    o.do("dot", lambda: os.rename(o.at("folder/."), o.at("x")))
    o.do("dot dot", lambda: os.rename(o.at("folder/below/.."), o.at("x")))
    o.do("listed", lambda: sorted(os.listdir(o.folder)))
    o.do("elsewhere", lambda: os.rename(o.at("folder/below"), o.at("moved")))
    o.do("parent", lambda: os.path.samefile(o.at("moved/.."), o.folder))
    o.do("links", lambda: os.stat(o.at("file")).st_nlink)


@case
def makes(o):
    for kind in KINDS[1:]:
        for there in KINDS:
            name = f"{kind}-{there}"
            make(o, there, name)
            o.do(f"make {kind} on {there}", lambda: make(o, kind, name) if kind != "full" else os.mkdir(o.at(name)))
            o.look(name)
    o.do("below nothing", lambda: os.mkdir(o.at("no/such")))
    o.do("below a file", lambda: os.mkdir(o.at("file-none/x")))
    o.do("without a name", lambda: os.mkdir(""))


@case
def removes(o):
    for kind in KINDS:
        for how in os.unlink, os.rmdir:
            name = f"{kind}-{how.__name__}"
            make(o, kind, name)
            o.do(f"{how.__name__} {kind}", lambda: how(o.at(name)))
            o.look(name)
    os.mkdir(o.at("folder"))
    o.do("dot", lambda: os.rmdir(o.at("folder/.")))
    o.do("dot dot", lambda: os.rmdir(o.at("folder/..")))


@case
def names(o):
    for name in "x" * 255, "x" * 256, "ü" * 127, " ", "a\nb", "...", "-", "\\", "\x01", "a" * 200 + ".b":
        o.do(f"make {name!r:.30}", lambda: o.write(name))
        o.look(name)
    o.do("bytes", lambda: os.close(os.open(o.folder.encode() + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY)))
    o.do("listed", lambda: sorted(os.listdir(o.folder.encode())))
    deep = o.folder
    for _ in range(60):
        deep += "/" + "d" * 40
        os.mkdir(deep)
    o.do("deep", lambda: os.path.isdir(deep))


@case
def opens(o):
    flags = {
        "r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "c": os.O_CREAT | os.O_RDWR, "x": os.O_CREAT | os.O_EXCL,
        "t": os.O_TRUNC | os.O_WRONLY, "a": os.O_APPEND | os.O_WRONLY, "n": os.O_NOFOLLOW, "d": os.O_DIRECTORY,
        "p": os.O_PATH, "rt": os.O_TRUNC, "tmp": os.O_TMPFILE | os.O_RDWR, "sync": os.O_SYNC | os.O_RDWR,
    }
    for kind in "none", "file", "folder", "link":
        for name, flag in flags.items():
            it = f"{kind}-{name}"
            make(o, kind, it)
            opened = (lambda: tmpfile(o, o.at(it), 0o644)) if name == "tmp" else (lambda: os.open(o.at(it), flag, 0o644))
            o.do(f"open {kind} {name}", lambda: os.close(opened()))
            o.look(it)
    os.symlink("loop", o.at("loop"))
    o.do("a loop", lambda: os.open(o.at("loop"), os.O_RDONLY))
    o.do("below a file", lambda: os.open(o.at("file-r/x"), os.O_RDONLY))
    o.do("with a slash", lambda: os.open(o.at("file-r/"), os.O_RDONLY))


@case
def modes(o):
    os.umask(0)
    for mode in 0, 0o644, 0o777, 0o4755, 0o2755, 0o1777, 0o7777:
        for kind in "file", "folder":
            name = f"{kind}-{mode:o}"
            make(o, kind, name)
            o.do(f"chmod {kind} {mode:o}", lambda: os.chmod(o.at(name), mode))
            o.look(name)
        o.do(f"made {mode:o}", lambda: os.close(os.open(o.at(f"made-{mode:o}"), os.O_CREAT | os.O_WRONLY, mode)))
        o.look(f"made-{mode:o}")
        o.do(f"mkdir {mode:o}", lambda: os.mkdir(o.at(f"mkdir-{mode:o}"), mode))
        o.look(f"mkdir-{mode:o}")
    os.umask(0o027)
    o.do("a mask", lambda: os.mkdir(o.at("masked")))
    o.look("masked")
    os.umask(0o022)
    o.do("nothing there", lambda: os.chmod(o.at("nothing"), 0o644))


@case
def owners(o):
    o.write("file")
    os.symlink("file", o.at("link"))
    for name in "file", "link":
        o.do(f"chown {name}", lambda: os.chown(o.at(name), SOMEONE, SOMEONE + 1, follow_symlinks=False))
        o.look(name)
    os.chmod(o.at("file"), 0o6755)
    o.do("chown takes setuid away", lambda: os.chown(o.at("file"), SOMEONE + 2, -1))
    o.look("file")
    os.mkdir(o.at("group"))
    os.chown(o.at("group"), 0, SOMEONE)
    os.chmod(o.at("group"), 0o2755)
    o.write("group/file")
    os.mkdir(o.at("group/folder"))
    o.look("group/file")
    o.look("group/folder")


def as_someone(call):
    """Runs `call` as an ordinary user, in a child."""
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(SOMEONE)
        os.setuid(SOMEONE)
        try:
            call()
            said = "done"
        except OSError as error:
            said = errno.errorcode.get(error.errno, "?")
        os.write(outside, said.encode())
        os._exit(0)
    os.close(outside)
    said = os.read(inside, 100).decode()
    os.close(inside)
    os.waitpid(child, 0)
    return said


@case
def permissions(o):
    os.chmod(o.folder, 0o755)
    o.write("roots")
    os.chmod(o.at("roots"), 0o640)
    o.write("readable")
    os.mkdir(o.at("open"))
    os.chmod(o.at("open"), 0o777)
    os.mkdir(o.at("sticky"))
    os.chmod(o.at("sticky"), 0o1777)
    o.write("sticky/roots")
    os.mkdir(o.at("closed"), 0o700)
    o.write("closed/in")
    o.write("theirs")
    os.chown(o.at("theirs"), SOMEONE, SOMEONE)
    tries = {
        "read roots": lambda: open(o.at("roots"), "rb"),
        "read readable": lambda: open(o.at("readable"), "rb"),
        "write readable": lambda: open(o.at("readable"), "ab"),
        "write theirs": lambda: open(o.at("theirs"), "ab"),
        "chmod theirs": lambda: os.chmod(o.at("theirs"), 0o600),
        "chmod roots": lambda: os.chmod(o.at("roots"), 0o666),
        "chown theirs": lambda: os.chown(o.at("theirs"), SOMEONE + 1, -1),
        "make": lambda: o.write("mine"),
        "make in open": lambda: o.write("open/mine"),
        "remove in sticky": lambda: os.unlink(o.at("sticky/roots")),
        "rename in sticky": lambda: os.rename(o.at("sticky/roots"), o.at("sticky/x")),
        "list closed": lambda: os.listdir(o.at("closed")),
        "through closed": lambda: open(o.at("closed/in"), "rb"),
        "times of readable": lambda: os.utime(o.at("readable")),
        "times of theirs": lambda: os.utime(o.at("theirs"), (1, 1)),
        "truncate readable": lambda: os.truncate(o.at("readable"), 0),
    }
    for name, call in tries.items():
        o.do(f"someone: {name}", lambda: as_someone(call))
    o.look("open/mine")
    o.look("theirs")


@case
def links(o):
    o.write("file")
    os.mkdir(o.at("folder"))
    os.symlink("file", o.at("symbolic"))
    o.do("a twin", lambda: os.link(o.at("file"), o.at("twin")))
    o.do("of a folder", lambda: os.link(o.at("folder"), o.at("x")))
    o.do("onto something", lambda: os.link(o.at("file"), o.at("twin")))
    o.do("of a symbolic link", lambda: os.link(o.at("symbolic"), o.at("y"), follow_symlinks=False))
    o.do("of nothing", lambda: os.link(o.at("nothing"), o.at("z")))
    for name in "file", "twin", "y":
        o.look(name)
    o.do("one file", lambda: os.path.samefile(o.at("file"), o.at("twin")))
    os.unlink(o.at("file"))
    o.look("twin")
    for target in "x" * 4095, "x" * 4096, "../../../etc/passwd", "/", "ü\n":
        o.do(f"symbolic {len(target)}", lambda: os.symlink(target, o.at(f"s{len(target)}")))
        o.do("read", lambda: os.readlink(o.at(f"s{len(target)}")))
    o.do("empty", lambda: os.symlink("", o.at("empty")))
    o.do("no link", lambda: os.readlink(o.at("twin")))
    for number in range(100):
        os.link(o.at("twin"), o.at(f"many{number}"))
    o.look("twin")


@case
def nameless(o):
    file = o.do("tmpfile", lambda: tmpfile(o, o.folder, 0o600))
    if file is not None:
        o.list.pop()
        os.write(file, b"words")
        o.do("links", lambda: os.fstat(file).st_nlink)
        o.do("named", lambda: os.link(f"/proc/self/fd/{file}", o.at("named"), follow_symlinks=True))
        o.look("named")
        o.do("read", lambda: open(o.at("named"), "rb").read())
        os.close(file)
    o.write("gone")
    file = os.open(o.at("gone"), os.O_RDWR)
    os.unlink(o.at("gone"))
    o.do("write", lambda: os.pwrite(file, b"CON", 0))
    o.do("read", lambda: os.pread(file, 100, 0))
    o.do("stat", lambda: (os.fstat(file).st_nlink, os.fstat(file).st_size))
    o.do("chmod", lambda: os.fchmod(file, 0o600))
    o.do("truncate", lambda: os.ftruncate(file, 2))
    o.do("read again", lambda: os.pread(file, 100, 0))
    os.close(file)
    os.mkdir(o.at("folder"))
    folder = os.open(o.at("folder"), os.O_RDONLY)
    os.rmdir(o.at("folder"))
    o.do("make in what is gone", lambda: os.mkdir("x", dir_fd=folder))
    o.do("list what is gone", lambda: os.listdir(folder))
    os.close(folder)
    o.write("moved")
    file = os.open(o.at("moved"), os.O_RDWR)
    os.rename(o.at("moved"), o.at("elsewhere"))
    o.do("write moved", lambda: os.pwrite(file, b"M", 0))
    o.do("read moved", lambda: open(o.at("elsewhere"), "rb").read())
    os.close(file)


@case
def sizes(o):
    o.write("file", b"x" * 10000)
    for size in 0, 1, 4095, 4096, 4097, 1 << 20, (5 << 30) + 3, 10:
        o.do(f"truncate {size}", lambda: os.truncate(o.at("file"), size))
        o.look("file")
    o.do("negative", lambda: os.truncate(o.at("file"), -1))
    o.do("a folder", lambda: os.truncate(o.folder, 0))
    o.do("content", lambda: open(o.at("file"), "rb").read())
    with open(o.at("file"), "r+b", buffering=0) as file:
        o.do("behind the end", lambda: os.pwrite(file.fileno(), b"end", (5 << 30)))
        o.do("hole", lambda: os.pread(file.fileno(), 8, 1 << 30))
        o.do("end", lambda: os.pread(file.fileno(), 8, (5 << 30) - 2))
        o.do("data", lambda: seek_data(o, file, 1 << 20) >= (4 << 30))
        o.do("no data", lambda: os.lseek(file.fileno(), 6 << 30, os.SEEK_DATA))
    with open(o.at("append"), "ab", buffering=0) as file:
        file.write(b"one")
        os.pwrite(file.fileno(), b"two", 0)
    o.do("append", lambda: open(o.at("append"), "rb").read())


@case
def space(o):
    content = bytes(range(256)) * 256
    for mode in 0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE:
        name = f"mode{mode}"
        o.write(name, content)
        with open(o.at(name), "r+b", buffering=0) as file:
            o.do(f"allocate {mode}", lambda: fallocate(o, file.fileno(), mode, 8192, 100000))
            o.do("of nothing", lambda: fallocate(o, file.fileno(), mode, 0, 0))
        o.look(name)
        o.do("content", lambda: hash(open(o.at(name), "rb").read()))
    o.write("copy", b"")
    with open(o.at("mode0"), "rb") as source, open(o.at("copy"), "r+b") as target:
        o.do("copied", lambda: os.copy_file_range(source.fileno(), target.fileno(), 5000, 3, 10))
    o.do("content", lambda: open(o.at("copy"), "rb").read() == content[3 : 3 + 5000].rjust(5010, b"\0"))


@case
def times(o):
    o.write("file")
    for name, stamp in ("old", 1), ("new", 2_000_000_000), ("nano", 1_600_000_000):
        o.do(name, lambda: utime(o, "file", (stamp * 10**9 + 123456789, stamp * 10**9 + 987654321)))
        o.do("times", lambda: (os.stat(o.at("file")).st_atime_ns, os.stat(o.at("file")).st_mtime_ns))

    def newer(what, call):
        os.utime(o.at("file"), (1, 1))
        before = os.stat(o.at("file"))
        call()
        after = os.stat(o.at("file"))
        o.do(what, lambda: (after.st_mtime > before.st_mtime, after.st_ctime_ns >= before.st_ctime_ns))

    newer("a write", lambda: o.write("file"))
    newer("chmod", lambda: os.chmod(o.at("file"), 0o600))
    newer("truncate", lambda: os.truncate(o.at("file"), 1))
    newer("rename", lambda: os.rename(o.at("file"), o.at("other")) or os.rename(o.at("other"), o.at("file")))
    os.utime(o.folder, (1, 1))
    o.write("another")
    o.do("the folder's", lambda: os.stat(o.folder).st_mtime > 1)
    os.symlink("file", o.at("link"))
    o.do("a link's own", lambda: os.utime(o.at("link"), (5, 5), follow_symlinks=False))
    o.do("times", lambda: (os.lstat(o.at("link")).st_mtime, os.stat(o.at("link")).st_mtime != 5))


@case
def lists(o):
    o.do("empty", lambda: os.listdir(o.folder))
    for number in range(3000):
        os.close(os.open(o.at(f"file-{number:05}"), os.O_CREAT | os.O_WRONLY))
    o.do("many", lambda: (len(os.listdir(o.folder)), len(set(os.listdir(o.folder)))))
    with os.scandir(o.folder) as entries:
        first = next(entries)
        for number in range(1500):
            os.unlink(o.at(f"file-{number:05}"))
        rest = [entry.name for entry in entries]
        o.do("while they go", lambda: len(rest) == len(set(rest)) and first.name not in rest)
        kept = {f"file-{number:05}" for number in range(1500, 3000)} - {first.name}
        o.do("all that stay", lambda: kept <= set(rest))
    o.do("half", lambda: len(os.listdir(o.folder)))
    o.do("types", lambda: sorted({(entry.is_file(), entry.is_dir()) for entry in os.scandir(o.folder)}))
    o.do("no folder", lambda: os.listdir(o.at("file-02000")))


@case
def attributes(o):
    o.write("file")
    os.symlink("file", o.at("link"))
    at = o.at("file")
    o.do("none", lambda: os.getxattr(at, "user.a"))
    o.do("set", lambda: os.setxattr(at, "user.a", b"value"))
    o.do("get", lambda: os.getxattr(at, "user.a"))
    o.do("make one that is there", lambda: os.setxattr(at, "user.a", b"x", os.XATTR_CREATE))
    o.do("replace none", lambda: os.setxattr(at, "user.b", b"x", os.XATTR_REPLACE))
    o.do("an empty one", lambda: os.setxattr(at, "user.empty", b""))
    o.do("a long one", lambda: os.setxattr(at, "user.long", b"v" * 2000))
    o.do("get", lambda: os.getxattr(at, "user.long"))
    o.do("listed", lambda: sorted(name for name in os.listxattr(at) if name.startswith("user.")))
    o.do("of a link", lambda: os.setxattr(o.at("link"), "user.a", b"x", follow_symlinks=False))
    o.do("remove", lambda: os.removexattr(at, "user.a"))
    o.do("remove again", lambda: os.removexattr(at, "user.a"))
    o.do("a long name", lambda: os.setxattr(at, "user." + "n" * 250, b"x"))
    o.do("too long a name", lambda: os.setxattr(at, "user." + "n" * 251, b"x"))
    o.do("of a folder", lambda: os.setxattr(o.folder, "user.f", b"x"))
    o.do("get", lambda: os.getxattr(o.folder, "user.f"))


def in_child(call):
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "done")


@case
def locks(o):
    o.write("file", b"x" * 100)
    file = os.open(o.at("file"), os.O_RDWR)

    def record(kind, start, length):
        mine = os.open(o.at("file"), os.O_RDWR)
        fcntl.fcntl(mine, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))

    o.do("record", lambda: record(fcntl.F_WRLCK, 0, 10))
    fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
    o.do("another's", lambda: in_child(lambda: record(fcntl.F_WRLCK, 5, 10)).replace("EACCES", "EAGAIN"))
    o.do("beside it", lambda: in_child(lambda: record(fcntl.F_WRLCK, 10, 10)))
    o.do("shared", lambda: in_child(lambda: record(fcntl.F_RDLCK, 0, 0)).replace("EACCES", "EAGAIN"))
    fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0))
    o.do("given back", lambda: in_child(lambda: record(fcntl.F_WRLCK, 0, 0)))
    fcntl.flock(file, fcntl.LOCK_EX)
    o.do("whole", lambda: in_child(lambda: fcntl.flock(os.open(o.at("file"), os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)))
    fcntl.flock(file, fcntl.LOCK_UN)
    o.do("free", lambda: in_child(lambda: fcntl.flock(os.open(o.at("file"), os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)))
    os.close(file)


@case
def maps(o):
    o.write("file", b"m" * 10000)
    with open(o.at("file"), "r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 10000) as memory:
            memory[5000:5005] = b"words"
            memory.flush()
            o.do("read", lambda: os.pread(file.fileno(), 9, 4998))
            os.pwrite(file.fileno(), b"WORDS", 5000)
            o.do("seen", lambda: bytes(memory[4998:5007]))
        os.truncate(o.at("file"), 20000)
        with mmap.mmap(file.fileno(), 20000, mmap.MAP_PRIVATE) as memory:
            memory[0:1] = b"P"
            o.do("private", lambda: (bytes(memory[9998:10002]), os.pread(file.fileno(), 2, 0)))


def main():
    os.umask(0o022)
    folder, reference, *lacking = sys.argv[1:]
    places = [(folder, {}), (reference, dict(word.partition("=")[::2] for word in lacking))]
    wrong = 0
    for run in CASES:
        outcomes = []
        for place, lacking in places:
            folder = os.path.join(place, run.__name__)
            os.mkdir(folder)
            of = Outcomes(folder, lacking)
            run(of)
            outcomes.append([(what, repr(value).replace(folder, "")) for what, value in of.list])
        ours, reference = outcomes
        different = [(a, b) for a, b in zip(ours, reference, strict=True) if a != b]
        wrong += len(different)
        print(f"{run.__name__}: {len(ours)} outcomes, {len(different)} different")
        for ours, reference in different[:20]:
            print(f"    {ours[0]}: {ours[1]:.200}, and {reference[1]:.200} in the reference")
    sys.exit(1 if wrong else 0)


main()
