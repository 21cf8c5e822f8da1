# The measuring part of `cargo xtask bench network`: the same two guests send each other the same traffic over Snowboot's switch and
# over what joins the guests of other VMMs; and one guest sends to its host. What counts is the CPU time of all that takes part: the
# VMMs, their guests in them, switches, and the kernel's threads. A server on the host, the same for all, does not.
import argparse
import json
import os
import re
import selectors
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEMORY_MIB = 256
# A run that is not over after so many seconds of the host never ends. Those of an emulated host pass quickly while nothing happens.
STUCK = 900
# The exit status when some figures are missing.
SOME_MISSING = 3
# Parts between two guests, and of one with its host.
BETWEEN, TO_HOST = ["tcp", "trips", "udp"], ["gateway"]
# By a card's address a guest knows which it is: the first, the second, or alone.
CARDS = {1: "52:54:00:12:01:01", 2: "52:54:00:12:01:02", 0: "52:54:00:12:34:56"}


class Way:
    """One way to join guests: programs beside them, started first, and a command for each."""

    def __init__(self, name, parts, commands, beside=(), before=(), after=()):
        self.name, self.parts, self.commands = name, parts, commands
        self.beside, self.before, self.after = beside, before, after


def kernel_threads():
    """CPU seconds of the kernel's own threads, where network cards' work may end up."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if parent == "2":
                total += int((stat.parent / "schedstat").read_text().split()[0])
        except (OSError, IndexError):
            continue  # It has ended meanwhile.
    return total / 1e9


def cpu_seconds(processes):
    return kernel_threads() + sum(time.clock_gettime((~it.pid << 3) | 2) for it in processes)


def exits():
    """How often guests have left for the host since that was started; None where it does not say."""
    try:
        return int(Path("/sys/kernel/debug/kvm/exits").read_text())
    except OSError:
        return None


def lines(processes, until):
    """What the processes say, whole lines, until the time is up or one that is no switch has nothing more to say."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            os.set_blocking(process.stdout.fileno(), False)
            selector.register(process.stdout, selectors.EVENT_READ, [b""])
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    return
                *whole, key.data[0] = (key.data[0] + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace").strip()


def run(way, parts, log):
    """For each part how much was done, its CPU seconds and exits of guests; None if it did not end."""
    processes, spent, over = [], {}, False
    begun = part = None
    try:
        for command in way.before:
            subprocess.run(command, check=True, stdout=log, stderr=log)
        for command, socket in way.beside:
            # What an earlier one left is no sign that this one is there.
            Path(socket).unlink(missing_ok=True)
            log.write(f"\n$ {command}\n")
            log.flush()
            # `vde_switch` ends with its input.
            beside = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            processes.append(beside)
            while not Path(socket).exists():
                assert beside.poll() is None, f"{command} has ended"
                time.sleep(0.05)
        guests = []
        for command in way.commands:
            words = [word.replace("PARTS", f"bench.parts={'+'.join(parts)}") for word in command]
            log.write(f"\n$ {words}\n")
            log.flush()
            guests.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log))
        processes += guests
        for text in lines(guests, time.monotonic() + STUCK):
            log.write(text + "\n")
            log.flush()
            match text.split():
                case ["MARK", "begin", part]:
                    begun, left = cpu_seconds(processes), exits()
                case ["COUNT", count] if begun is not None:
                    spent[part] = int(count), 0, None
                case ["MARK", "end", part] if part in spent:
                    more = exits()
                    spent[part] = spent[part][0], cpu_seconds(processes) - begun, None if more is None else more - left
                    begun = None
                case ["MARK", "over"]:
                    over = True
                    break
    finally:
        for it in reversed(processes):
            it.kill()
            it.wait()
        for command in way.after:
            subprocess.run(command, check=False, stdout=log, stderr=log)
    if not over:
        print(f"{way.name:24} ended, or stuck, in the middle", file=sys.stderr)
    return spent if over else None


class Ways:
    """The ways that there are."""

    def __init__(self, args, work):
        self.args, self.work = args, work
        self.cmdline = "console=ttyS0 quiet panic=-1 PARTS"

    def all(self):
        ways = [*self.snowboot(), *self.qemu()]
        return ways + ([self.firecracker()] if self.args.firecracker else [])

    def snowboot(self):
        boot = ["--kernel", self.args.kernel, "--initrd", self.args.initrd, "--memory", f"{MEMORY_MIB}M", "--cmdline", self.cmdline]
        two = [self.args.snowboot, "bench", "machines", "--count", "2", "--vcpus", "1", "--network", *boot]
        return [
            Way("snowboot", BETWEEN, [two]),
            Way("snowboot", TO_HOST, [[self.args.snowboot, "run", "--net", "user", *boot]]),
        ]

    def qemu(self):
        base = ["qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-nodefaults", "-display", "none"]
        base += ["-serial", "stdio", "-no-reboot", "-kernel", self.args.kernel, "-initrd", self.args.initrd]
        base += ["-append", self.cmdline, "-m", f"{MEMORY_MIB}M"]

        def guest(number, net):
            return [*base, "-netdev", f"{net},id=n", "-device", f"virtio-net-pci,netdev=n,mac={CARDS[number]}"]

        vde, passt = self.work / "vde", self.work / "passt.sock"
        switch = ["vde_switch", "--sock", str(vde), "--dirmode", "0700"]
        gateway = ["passt", "--foreground", "--one-off", "--socket", str(passt), "--address", "10.0.2.15", "--netmask", "24"]
        gateway += ["--gateway", "10.0.2.2", "--ipv4-only", "--mtu", "65520", "--runas", "0"]
        host = [["ip", "link", "add", "up0", "type", "bridge"], ["ip", "address", "add", "10.8.0.1/24", "dev", "up0"]]
        host += [["ip", "link", "set", "up0", "up"], ["ip", "route", "add", "default", "via", "10.8.0.2"]]
        return [
            Way("qemu + vde_switch", BETWEEN, [guest(number, f"vde,sock={vde}") for number in [1, 2]], [(switch, vde / "ctl")]),
            Way("qemu slirp", TO_HOST, [guest(0, "user,ipv6=off")]),
            Way(
                "qemu + passt",
                TO_HOST,
                [guest(0, f"stream,server=off,addr.type=unix,addr.path={passt}")],
                [(gateway, passt)],
                before=host,
                after=[["ip", "link", "delete", "up0"]],
            ),
        ]

    def firecracker(self):
        commands, before, after = [], [["ip", "link", "add", "br0", "type", "bridge"]], []
        for number in [1, 2]:
            tap, config = f"tap{number}", self.work / f"firecracker-{number}.json"
            before += [["ip", "tuntap", "add", "mode", "tap", "name", tap, "vnet_hdr"]]
            before += [["ip", "link", "set", tap, "master", "br0"], ["ip", "link", "set", tap, "up"]]
            after += [["ip", "link", "delete", tap]]
            commands.append(["sh", "-c", f"exec {self.args.firecracker} --no-api --enable-pci --config-file {config}"])
            self.configure(config, number, tap)
        before += [["ip", "link", "set", "br0", "up"]]
        return Way("firecracker + bridge", BETWEEN, commands, before=before, after=[*after, ["ip", "link", "delete", "br0"]])

    def configure(self, config, number, tap):
        boot = {"kernel_image_path": self.args.elf_kernel, "initrd_path": self.args.initrd}
        machine = {
            "boot-source": boot | {"boot_args": self.cmdline.replace("PARTS", f"bench.parts={'+'.join(self.args.parts)}")},
            "drives": [],
            "network-interfaces": [{"iface_id": "eth0", "guest_mac": CARDS[number], "host_dev_name": tap}],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
        }
        if " xsave" not in Path("/proc/cpuinfo").read_text():
            # It asks KVM for extended states otherwise (KVM_CAP_XCRS, 56), which the emulated host's CPU has not.
            template = self.work / "template.json"
            template.write_text('{"kvm_capabilities": ["!56"]}')
            machine["cpu-config"] = str(template)
        config.write_text(json.dumps(machine))


def main():
    parser = argparse.ArgumentParser()
    for name in ["snowboot", "kernel", "elf-kernel", "initrd", "traffic", "work", "json"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--firecracker")
    parser.add_argument("--emulated", action="store_true", help="this host is there for this only")
    parser.add_argument("--jobs", default="tcp,trips,udp,gateway")
    parser.add_argument("--only", default="", help="only ways whose name has this in it")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    work = Path(args.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if args.emulated:
        subprocess.run(["mount", "-t", "debugfs", "none", "/sys/kernel/debug"], check=False, capture_output=True)
    for name in ["kernel", "elf_kernel", "initrd", "snowboot", "traffic", "firecracker"]:
        if path := getattr(args, name):
            place = work / Path(path).name
            shutil.copy(path, place)
            setattr(args, name, str(place))
    jobs = args.jobs.split(",")
    args.parts = [part for part in BETWEEN if part in jobs]
    ways = [(way, [part for part in way.parts if part in jobs]) for way in Ways(args, work).all() if re.search(args.only, way.name)]
    ways = [(way, parts) for way, parts in ways if parts]
    done, all_ended = {}, True
    servers = [subprocess.Popen(it, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for it in [["iperf3", "--server"], [args.traffic, "serve"]]]
    with open(args.json + ".log", "w") as log:
        # One after the other in each round, so that what else the host does hits all of them.
        for _ in range(args.runs):
            for way, parts in ways:
                spent = run(way, parts, log)
                all_ended = all_ended and spent is not None and len(spent) == len(parts)
                for part, (count, seconds, left) in (spent or {}).items():
                    done.setdefault((part, way.name), []).append((count, seconds, left))
                    print(f"{way.name:24} {part:8} {count} in {seconds:.3f} s, {left} exits", file=sys.stderr)
    for it in servers:
        it.kill()
        it.wait()
    figures = []
    for (part, way), runs in sorted(done.items(), key=lambda item: jobs.index(item[0][0])):
        counts, seconds, left = zip(*runs, strict=True)
        rates = [count / time for count, time in zip(counts, seconds, strict=True)]
        figure = {"way": way, "part": part, "rate": statistics.median(rates), "all": rates, "counts": counts}
        figures.append(figure if None in left else figure | {"exits": left})
    Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0 if all_ended else SOME_MISSING


sys.exit(main())
