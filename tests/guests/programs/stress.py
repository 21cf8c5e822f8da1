"""Random changes of a folder by several processes at a time: `python3 stress.py FOLDER NAME SEED OPERATIONS PROCESSES`.

After fsstress. Each process has a folder of its own, whose content it knows at every moment and looks at again and again, and
all of them and those of other machines meet in the folder `common`, where anything may happen but errors that cannot be. At the end
it prints what its own folders hold, a line per file, for somebody else to compare.
"""

import errno
import hashlib
import os
import random
import stat
import sys

# What a race with another process may make of a call.
RACES = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.EINVAL, errno.ELOOP,
    errno.EBUSY, errno.EXDEV,
}
MOST_NAMES = 40


def main():
    folder, name, seed, count, processes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    os.makedirs(os.path.join(folder, "common"), exist_ok=True)
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                work(folder, f"{name}-{number}", random.Random(f"{seed}-{number}"), count)
                os._exit(0)
            except BaseException as error:
                print(f"{name}-{number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    failed = [child for child in children if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0]
    if failed:
        sys.exit(f"{len(failed)} processes failed")
    for number in range(processes):
        for line in listing(os.path.join(folder, f"{name}-{number}")):
            print(f"{name}-{number}/{line}")


def listing(folder):
    """What a folder holds, in the order of the names."""
    lines = []
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            it = os.lstat(path)
            if stat.S_ISLNK(it.st_mode):
                what = "-> " + os.readlink(path)
            elif stat.S_ISREG(it.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
                what = f"{it.st_mode:o} {it.st_nlink} {len(content)} {hashlib.sha256(content).hexdigest()[:16]}"
            else:
                what = f"{it.st_mode:o}"
            lines.append(f"{os.path.relpath(path, folder)} {what}")
    return sorted(lines)


class Model:
    """One process's folder, as it must be: paths to a file's content, a link's target, or None for a folder."""

    def __init__(self, root, dice):
        self.root, self.dice, self.known = root, dice, {"": None}
        os.mkdir(root)

    def at(self, path):
        return os.path.join(self.root, path)

    def some(self, kind=object, but_root=True):
        fit = [path for path, it in self.known.items() if isinstance(it, kind) and (path or not but_root)]
        return self.dice.choice(sorted(fit)) if fit else None

    def new(self):
        parent = self.some(type(None), but_root=False)
        path = os.path.join(parent, f"n{self.dice.randrange(MOST_NAMES)}")
        return path if path not in self.known and path.count("/") < 8 else None

    def make_file(self):
        if path := self.new():
            content = bytearray(self.dice.randbytes(self.dice.randrange(20000)))
            with open(self.at(path), "xb") as file:
                file.write(content)
            self.known[path] = content

    def make_folder(self):
        if path := self.new():
            os.mkdir(self.at(path))
            self.known[path] = None

    def make_link(self):
        if path := self.new():
            target = "t" * self.dice.randrange(1, 200)
            os.symlink(target, self.at(path))
            self.known[path] = target

    def append(self):
        if path := self.some(bytearray):
            more = self.dice.randbytes(self.dice.randrange(5000))
            with open(self.at(path), "ab") as file:
                file.write(more)
            self.known[path] += more

    def truncate(self):
        if path := self.some(bytearray):
            size = self.dice.randrange(30000)
            os.truncate(self.at(path), size)
            content = self.known[path]
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]

    def check(self):
        if path := self.some(bytearray):
            with open(self.at(path), "rb") as file:
                assert file.read() == self.known[path], f"{path} does not hold what was written"

    def check_list(self):
        path = self.some(type(None), but_root=False)
        found = sorted(os.listdir(self.at(path)))
        wanted = sorted(p.rpartition("/")[2] for p in self.known if p and p.rpartition("/")[0] == path)
        assert found == wanted, f"{path} holds {found}, not {wanted}"

    def remove(self):
        path = self.some((bytearray, str))
        if path:
            os.unlink(self.at(path))
            del self.known[path]

    def remove_folder(self):
        path = self.some(type(None))
        if not path:
            return
        is_empty = not any(p.startswith(path + "/") for p in self.known)
        try:
            os.rmdir(self.at(path))
            assert is_empty, f"{path} was removed though it was not empty"
            del self.known[path]
        except OSError as error:
            assert not is_empty and error.errno == errno.ENOTEMPTY, error

    def rename(self):
        old, new = self.some(), self.new()
        if not old or not new or new.startswith(old + "/"):
            return
        os.rename(self.at(old), self.at(new))
        moved = {p: it for p, it in self.known.items() if p == old or p.startswith(old + "/")}
        for path in moved:
            del self.known[path]
        self.known.update({new + path[len(old) :]: it for path, it in moved.items()})

    def replace(self):
        old, new = self.some(bytearray), self.some(bytearray)
        if old and new and old != new:
            os.rename(self.at(old), self.at(new))
            self.known[new] = self.known.pop(old)


def meet(common, dice):
    """One of many things in the folder that others change at the same time."""

    def name():
        return os.path.join(common, *(f"c{dice.randrange(6)}" for _ in range(dice.randrange(1, 4))))

    things = [
        lambda: os.mkdir(name()),
        lambda: open(name(), "ab").write(dice.randbytes(100)),
        lambda: open(name(), "rb").read(),
        lambda: os.unlink(name()),
        lambda: os.rmdir(name()),
        lambda: os.rename(name(), name()),
        lambda: os.link(name(), name()),
        lambda: os.symlink("x", name()),
        lambda: os.listdir(os.path.dirname(name())),
        lambda: os.truncate(name(), dice.randrange(1000)),
        lambda: os.stat(name()),
    ]
    try:
        dice.choice(things)()
    except OSError as error:
        # Removing and linking folders has a word of its own.
        if error.errno not in RACES | {errno.EPERM, errno.ENODATA}:
            raise


def work(folder, name, dice, count):
    model = Model(os.path.join(folder, name), dice)
    steps = [
        model.make_file, model.make_file, model.make_folder, model.make_link, model.append, model.truncate, model.check,
        model.check_list, model.remove, model.remove_folder, model.rename, model.replace,
    ]
    for _ in range(count):
        dice.choice(steps)()
        meet(os.path.join(folder, "common"), dice)


if __name__ == "__main__":
    main()
