# A restricted user network lets nothing out, whatever its guest tries; the same attempts from a guest that is not restricted do
# arrive. What arrives is counted on the host: by servers that hear all that comes, and by the kernel, which counts all packets.
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

PROGRAM = Path("tests/guests/programs/escape.py").absolute()
RESOLVER = 5353
FORWARD = 2080
# The host's own address where it has no network but its loopback, as in the lab (RFC 5737).
SPARE = "192.0.2.77"

# What a guest says by sockets, or in frames as they should be, is heard.
HEARD = {
    "tcp: the gateway",
    "tcp6: the gateway",
    "tcp: the resolver",
    "tcp6: the resolver",
    "tcp: the host's own address",
    "tcp: another guest's address",
    "udp: the gateway",
    "udp6: the gateway",
    "udp: the resolver",
    "udp6: the resolver",
    "udp: the host's own address",
    "udp: fragments",
    "udp6: fragments",
    "raw: an ordinary one",
    "raw: a neighbour's address",
    "raw: options",
    "raw: small fragments",
    "raw: a broadcast frame",
}

heard: list[str] = []
heard_bytes = 0


def hear(data: bytes) -> None:
    global heard_bytes
    heard_bytes += len(data)
    heard.append(data.partition(b"\n")[0].decode(errors="replace"))


def serve_streams(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            try:
                hear(connection.recv(1000))
            except OSError:
                hear(b"a connection that says nothing")


def serve_datagrams(server: socket.socket) -> None:
    while True:
        hear(server.recv(70_000))


def own_address() -> str:
    """An address of the host's that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((SPARE, 9))  # This sends nothing.
            if probe.getsockname()[0] != "127.0.0.1":
                return probe.getsockname()[0]
        except OSError:
            pass
    assert os.getuid() == 0, "the host has no address but its loopback's, and this is not root, who could add one"
    subprocess.run(["ip", "address", "add", f"{SPARE}/32", "dev", "lo"], check=True)
    return SPARE


def listen(address: str, port: int) -> int:
    """Hears all that comes to a port over TCP and UDP; gives the port, for 0 a free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    streams = socket.socket(family, socket.SOCK_STREAM)
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    streams.bind((address, port))
    streams.listen(64)
    port = streams.getsockname()[1]
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, port))
    threading.Thread(target=serve_streams, args=(streams,), daemon=True).start()
    threading.Thread(target=serve_datagrams, args=(datagrams,), daemon=True).start()
    return port


def sent_by_host() -> int:
    """All IP packets that any program of this host has sent so far, or would have sent had there been a way."""
    total = 0
    lines = Path("/proc/net/snmp").read_text().splitlines()
    for names, numbers in zip(lines[::2], lines[1::2]):
        counters = dict(zip(names.split()[1:], numbers.split()[1:]))
        total += sum(int(counters.get(name, 0)) for name in ("OutRequests", "OutNoRoutes"))
    for line in Path("/proc/net/snmp6").read_text().splitlines():
        name, number = line.split()
        total += int(number) if name in ("Ip6OutRequests", "Ip6OutNoRoutes") else 0
    return total


host = own_address()
port = listen("127.0.0.1", 0)
listen(host, port)
listen("::1", port)
listen("127.0.0.1", RESOLVER)


def prepare(guest) -> None:
    guest.wait_for_unit("multi-user.target")
    guest.copy_from_host(str(PROGRAM), "/run/escape.py")
    guest.succeed(
        "ip link set eth0 up",
        "ip address add 10.0.2.15/24 dev eth0",
        "ip address add 10.0.2.99/24 dev eth0",
        "ip address add fec0::15/64 dev eth0 nodad",
        "ip route add default via 10.0.2.2 dev eth0",
        # The gateway may have announced itself as one already.
        "ip -6 route replace default via fec0::2 dev eth0",
        "ping -c 1 -W 5 10.0.2.2",
        "ping -c 1 -W 5 fec0::2",
    )


def escape(guest) -> list[str]:
    """Tries all; what was tried."""
    tried = guest.succeed(f"python3 /run/escape.py eth0 {port} {host} {FORWARD}", timeout=300)
    # Whatever is still under way.
    time.sleep(5)
    return tried.splitlines()


start_all()
prepare(confined)
prepare(free)

with subtest("nothing gets out of a restricted network"):
    before = sent_by_host()
    time.sleep(5)
    is_quiet = sent_by_host() == before
    before = sent_by_host()
    tried = escape(confined)
    sent = sent_by_host() - before
    log.info(f"{len(tried)} attempts: {len(heard)} were heard, {heard_bytes} bytes of them; the host sent {sent} packets")
    assert (heard, heard_bytes) == ([], 0), heard
    if is_quiet:
        assert sent == 0, f"the host sent {sent} packets"
    else:
        log.warning("other programs of this host are sending, so its packets say nothing: the servers heard nothing")

with subtest("the guest was there all the time"):
    confined.succeed("ping -c 1 -W 5 10.0.2.2")
    assert set(HEARD) <= set(tried), set(HEARD) - set(tried)

with subtest("the same attempts arrive from a guest that is not restricted"):
    before = sent_by_host()
    assert escape(free) == tried
    sent = sent_by_host() - before
    log.info(f"{len(tried)} attempts: {len(heard)} were heard, {heard_bytes} bytes of them; the host sent {sent} packets")
    assert HEARD <= set(heard), HEARD - set(heard)
    assert sent >= len(HEARD), f"the host sent only {sent} packets"

with subtest("what no network carries is not carried either"):
    for name in ("raw: from 127.0.0.1", "raw: to 127.0.0.1", "raw: to ::1", "raw: to a mapped address", "raw: a tag"):
        assert name in tried and name not in heard, name

if host == SPARE:
    subprocess.run(["ip", "address", "del", f"{SPARE}/32", "dev", "lo"], check=True)
