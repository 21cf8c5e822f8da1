# The measuring part of `cargo xtask bench storage`: the same guest does the same work with a disk and with a shared folder under
# each VMM in turn. What counts is the CPU time of all processes of the VMM, the guest's own in it.
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

DISK_MIB = 256
BIG_MIB = 512
FOLDERS = 500
FILES = 100
MEMORY_MIB = 1024
# As NixOS mounts it, but for the longest message.
NINEP = "trans=virtio,version=9p2000.L"
# A job that is not over after so many seconds of the host never ends. Those of an emulated host pass quickly while nothing happens.
STUCK = 120
# The exit status when some figures are missing.
SOME_MISSING = 3


# Lets go of what files the host has in memory.
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def family(pid):
    """The process and its children, of which virtiofsd has one that does the work in namespaces of its own."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (thread / "children").read_text().split()
        except FileNotFoundError:
            continue  # The thread has ended meanwhile.
        for child in children:
            yield from family(int(child))


def cpu_seconds(processes):
    return sum(time.clock_gettime((~pid << 3) | 2) for it in processes for pid in family(it.pid))


class Vmm:
    """One VMM with one way to give the guest its disk or its folder."""

    def __init__(self, name, command, mount="", beside=None, is_cold=False):
        self.name, self.command, self.mount, self.beside, self.is_cold = name, command, mount, beside, is_cold


def run(vmm, job, log):
    """CPU seconds between the guest's marks of each part of the job; None if it did not end."""
    beside = None
    if vmm.beside:
        # What an earlier one left is no sign that this one is there.
        Path(vmm.beside[1]).unlink(missing_ok=True)
        beside = subprocess.Popen(vmm.beside[0], stdout=log, stderr=log)
        while not Path(vmm.beside[1]).exists():
            assert beside.poll() is None, f"{vmm.beside[0]} has ended"
            time.sleep(0.05)
    guest_job = "disk" if vmm.is_cold else job
    command = [word.replace("JOB", f"bench.job={guest_job} bench.mount={vmm.mount.replace(' ', '+')}") for word in vmm.command]
    log.write(f"\n$ {command}\n")
    log.flush()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    processes = [process, beside] if beside else [process]
    begun, spent, over = {}, {}, False
    watch = threading.Timer(STUCK, process.kill)
    watch.start()
    try:
        for line in process.stdout:
            text = line.decode(errors="replace").strip()
            log.write(text + "\n")
            log.flush()
            match text.split():
                case ["MARK", "begin", part]:
                    if vmm.is_cold:
                        # The guest waits for a while yet.
                        DROP_CACHES.write_text("1")
                    begun[part] = cpu_seconds(processes)
                case ["MARK", "end", part]:
                    spent[part] = cpu_seconds(processes) - begun[part]
                case ["MARK", "over"]:
                    over = True
                    break
    finally:
        watch.cancel()
        for it in processes:
            it.kill()
            it.wait()
    if not over:
        print(f"{vmm.name:24} {job}: ended, or stuck, in the middle", file=sys.stderr)
    return spent if over else None


def shared_folder(place):
    """50,000 small files, and a large one."""
    place.mkdir()
    block = os.urandom(1 << 20)
    with open(place / "big", "wb") as big:
        for _ in range(BIG_MIB):
            big.write(block)
    for folder in range(FOLDERS):
        (place / f"folder-{folder}").mkdir()
        for file in range(FILES):
            (place / f"folder-{folder}" / f"file-{file}").write_text(f"{folder} {file}\n")


def vmms(args, work):
    """For each job, who does it and how."""
    image, folder, socket = work / "disk.img", work / "folder", work / "virtiofsd.sock"
    base = "console=ttyS0 quiet panic=-1 JOB"
    snowboot = [args.snowboot, "run", "--kernel", args.kernel, "--initrd", args.initrd, "--memory", f"{MEMORY_MIB}M"]
    snowboot += ["--cmdline", base]
    qemu = ["qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-nodefaults", "-display", "none", "-serial", "stdio"]
    qemu += ["-no-reboot", "-kernel", args.kernel, "-initrd", args.initrd, "-append", base, "-m", f"{MEMORY_MIB}M"]
    shared = ["-object", f"memory-backend-memfd,id=m,size={MEMORY_MIB}M,share=on", "-numa", "node,memdev=m"]
    disks = [
        Vmm("snowboot", [*snowboot, "--disk", f"{image},format=raw,read-only"]),
        Vmm("qemu", [*qemu, "-drive", f"if=none,id=d,format=raw,file={image}", "-device", "virtio-blk-pci,drive=d"]),
    ]
    for engine in ["Sync", "Async"] if args.firecracker else []:
        config = work / f"firecracker-{engine}.json"
        disk = {"drive_id": "d", "path_on_host": str(image), "is_root_device": False, "is_read_only": True, "io_engine": engine}
        boot = {"kernel_image_path": args.elf_kernel, "initrd_path": args.initrd, "boot_args": base}

        def fill(job, config=config, disk=disk, boot=boot):
            boot = boot | {"boot_args": boot["boot_args"].replace("JOB", f"bench.job={job}")}
            size = {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB}
            machine = {"boot-source": boot, "drives": [disk], "machine-config": size}
            if " xsave" not in Path("/proc/cpuinfo").read_text():
                # It asks KVM for extended states otherwise (KVM_CAP_XCRS, 56), which the emulated host's CPU has not.
                (work / "template.json").write_text('{"kvm_capabilities": ["!56"]}')
                machine["cpu-config"] = str(work / "template.json")
            config.write_text(json.dumps(machine))
            return config

        command = [args.firecracker, "--no-api", "--enable-pci", "--config-file", str(fill("disk"))]
        disks.append(Vmm(f"firecracker {engine.lower()}", command))
    # The same requests of an image that is not in the host's memory, on a file system of a disk.
    cold = args.cold / "cold.img"
    by_engine = [
        Vmm(f"snowboot {engine}", [*snowboot, "--disk", f"{cold},format=raw,read-only,engine={engine}"], is_cold=True)
        for engine in ["io-uring", "threads"]
    ]
    shares = [
        Vmm(f"snowboot {cache}", [*snowboot, "--share", f"s={folder},cache={cache}"], "virtiofs -o ro s")
        for cache in ["always", "auto"]
    ]
    options = f"9p -o {NINEP},ro,msize=512000,cache=loose s"
    shares.append(Vmm("snowboot 9p", [*snowboot, "--share", f"s={folder},protocol=9p"], options))
    for cache in ["always", "auto"]:
        beside = [args.virtiofsd, f"--socket-path={socket}", "-o", f"source={folder},cache={cache}"]
        device = ["-chardev", f"socket,id=c,path={socket}", "-device", "vhost-user-fs-pci,chardev=c,tag=s"]
        shares.append(Vmm(f"qemu virtiofsd {cache}", [*qemu, *shared, *device], "virtiofs -o ro s", (beside, socket)))
    device = ["-fsdev", f"local,id=f,path={folder},security_model=none,readonly=on", "-device", "virtio-9p-pci,fsdev=f,mount_tag=s"]
    shares.append(Vmm("qemu 9p", [*qemu, *device], options))
    shares.append(Vmm("qemu 9p 16k", [*qemu, *device], options.replace("512000", "16384")))
    return {"disk": disks, "cold": by_engine, "read": shares, "walk": shares}


def main():
    parser = argparse.ArgumentParser()
    for name in ["snowboot", "kernel", "elf-kernel", "initrd", "work", "json"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--firecracker")
    parser.add_argument("--virtiofsd", default="/usr/lib/qemu/virtiofsd")
    parser.add_argument("--jobs", default="disk,read,walk")
    parser.add_argument("--only", default="", help="only VMMs whose name has this in it")
    parser.add_argument("--cold", default="/var/tmp", type=Path, help="a folder on a disk, for images that are not in memory")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    work = Path(args.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in ["kernel", "elf_kernel", "initrd", "snowboot", "firecracker"]:
        if path := getattr(args, name):
            place = work / Path(path).name
            shutil.copy(path, place)
            setattr(args, name, str(place))
    jobs = args.jobs.split(",")
    (work / "disk.img").write_bytes(os.urandom(1 << 20) * DISK_MIB if "disk" in jobs else b"")
    if "cold" in jobs and not os.access(DROP_CACHES, os.W_OK):
        sys.exit(f"storage.py: the job cold makes the host forget what files it has in memory, by {DROP_CACHES}: run it as root")
    if "cold" in jobs:
        (args.cold / "cold.img").write_bytes(os.urandom(1 << 20) * DISK_MIB)
        os.sync()
    if {"read", "walk"} & set(jobs):
        shared_folder(work / "folder")
    spent = {}
    with open(args.json + ".log", "w") as log:
        for job, ways in vmms(args, work).items():
            ways = [vmm for vmm in ways if job in jobs and re.search(args.only, vmm.name)]
            # One after the other in each round, so that what else the host does hits all of them.
            for vmm in ways * args.runs:
                done = run(vmm, job, log)
                spent.setdefault((job, vmm.name), []).append(done)
                for part, seconds in (done or {}).items():
                    print(f"{vmm.name:24} {part:12} {seconds:.3f} s", file=sys.stderr)
    all_ended = all(all(runs) for runs in spent.values())
    figures = []
    for (_, name), runs in spent.items():
        runs = list(filter(None, runs))
        for part in runs[0] if runs else []:
            seconds = [it[part] for it in runs]
            figures.append({"vmm": name, "part": part, "seconds": statistics.median(seconds), "all": seconds})
    Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0 if all_ended else SOME_MISSING


sys.exit(main())
