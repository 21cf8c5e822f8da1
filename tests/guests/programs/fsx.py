"""Random reads and writes of one file beside a copy in memory: `python3 fsx.py FILE SEED OPERATIONS`.

After fsx, which file systems have been tested with since the 1990s. The first difference ends it, with what was done before.
"""

import ctypes
import mmap
import os
import random
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MOST = 1 << 20
KEEP_SIZE, PUNCH_HOLE = 1, 2
SHOWN = 20


def main():
    path, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)
    model = bytearray()
    file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
    done = []
    for number in range(count):
        what, start, length = dice.choice(OPERATIONS), dice.randrange(MOST), dice.randrange(1, 1 << dice.randrange(1, 18))
        length = min(length, MOST - start)
        done.append(f"{number}: {what.__name__} {start:#x}+{length:#x} of {len(model):#x}")
        try:
            file = what(file, path, model, start, length, dice) or file
            assert os.fstat(file).st_size == len(model), f"the size is {os.fstat(file).st_size:#x}, not {len(model):#x}"
        except (AssertionError, OSError, ValueError) as error:
            sys.exit("\n".join(done[-SHOWN:]) + f"\n{type(error).__name__}: {error}")
    os.close(file)
    with open(path, "rb") as again:
        assert again.read() == model, "after all, the file is not what was written"
    print(f"{count} operations with seed {seed}: all is well")


def grow(model, end):
    model.extend(bytes(max(0, end - len(model))))


def same(found, wanted, start):
    if found != wanted:
        at = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
        raise AssertionError(f"at {start + at:#x} there is {found[at:at + 8].hex()}, not {bytes(wanted[at:at + 8]).hex()}")


def read(file, path, model, start, length, dice):
    same(os.pread(file, length, start), model[start : start + length], start)


def write(file, path, model, start, length, dice):
    data = dice.randbytes(length)
    grow(model, start)
    model[start : start + length] = data
    assert os.pwrite(file, data, start) == length, "a short write"


def vector(file, path, model, start, length, dice):
    parts = [dice.randbytes(dice.randrange(1, 5000)) for _ in range(dice.randrange(1, 20))]
    data = b"".join(parts)
    grow(model, start)
    model[start : start + len(data)] = data
    assert os.pwritev(file, parts, start) == len(data), "a short write"


def truncate(file, path, model, start, length, dice):
    os.ftruncate(file, start)
    grow(model, start)
    del model[start:]


def punch(file, path, model, start, length, dice):
    if LIBC.fallocate(file, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(length)) != 0:
        assert ctypes.get_errno() == 95, f"punching failed with {ctypes.get_errno()}"  # EOPNOTSUPP: 9p has none.
        return
    end = min(start + length, len(model))
    if end > start:
        model[start:end] = bytes(end - start)


def allocate(file, path, model, start, length, dice):
    if LIBC.fallocate(file, 0, ctypes.c_long(start), ctypes.c_long(length)) != 0:
        assert ctypes.get_errno() == 95, f"allocating failed with {ctypes.get_errno()}"
        return
    grow(model, start + length)


def read_mapped(file, path, model, start, length, dice):
    if start >= len(model):
        return
    with mmap.mmap(file, len(model), prot=mmap.PROT_READ) as memory:
        same(memory[start : start + length], model[start : start + length], start)


def write_mapped(file, path, model, start, length, dice):
    if start >= len(model):
        return
    length = min(length, len(model) - start)
    data = dice.randbytes(length)
    with mmap.mmap(file, len(model)) as memory:
        memory[start : start + length] = data
        if dice.random() < 0.5:
            memory.flush()
    model[start : start + length] = data


def reopen(file, path, model, start, length, dice):
    os.close(file)
    return os.open(path, os.O_RDWR)


def sync(file, path, model, start, length, dice):
    os.fsync(file)


def copy(file, path, model, start, length, dice):
    """Within the file, to another place that does not overlap."""
    if start + 2 * length > len(model):
        return
    try:
        count = os.copy_file_range(file, file, length, start, start + length)
    except OSError as error:
        assert error.errno in (18, 38, 95), error  # Not on all file systems.
        return
    model[start + length : start + length + count] = model[start : start + count]


OPERATIONS = [read, read, write, write, vector, truncate, punch, allocate, read_mapped, write_mapped, reopen, sync, copy]

main()
