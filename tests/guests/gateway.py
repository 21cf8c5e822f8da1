"""The user network: an address by DHCP, the host's services, its resolver, ports that lead to the guest, and a guest that may
not leave."""

import hashlib
import http.server
import socket
import struct
import threading
import time
import urllib.error
import urllib.request

BLOB = hashlib.sha256(b"blob").digest() * 65536  # 2 MiB
ADDRESS = "192.0.2.77"


class Page(http.server.BaseHTTPRequestHandler):
    visits: list[str] = []

    def do_GET(self) -> None:
        self.visits.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(hashlib.sha256(body).hexdigest().encode())

    def log_message(self, *_) -> None:
        pass


web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=web.serve_forever, daemon=True).start()
port = web.server_address[1]

questions: list[bytes] = []


def resolve() -> None:
    """Answers every question for an IPv4 address with the same one, and others with none (RFC 1035)."""
    while True:
        query, peer = resolver.recvfrom(2000)
        questions.append(query)
        name = query[12 : query.index(b"\0", 12) + 1]
        kind = query[12 + len(name) : 16 + len(name)]
        answer = b"\xc0\x0c" + kind + struct.pack(">IH", 60, 4) + socket.inet_aton(ADDRESS)
        found = kind[:2] == b"\0\1"
        header = query[:2] + struct.pack(">5H", 0x8180, 1, int(found), 0, 0)
        resolver.sendto(header + name + kind + (answer if found else b""), peer)


resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("127.0.0.1", 5353))
threading.Thread(target=resolve, daemon=True).start()

LEASE = """
cat > /run/systemd/network/eth0.network <<END
[Match]
MACAddress=52:54:00:12:34:56
[Network]
DHCP=ipv4
IPv6AcceptRA=yes
END
systemctl unmask systemd-networkd.service systemd-networkd.socket
systemctl start systemd-networkd
"""


def get_address(guest) -> None:
    guest.wait_for_unit("multi-user.target")
    guest.succeed("mkdir -p /run/systemd/network", LEASE)
    guest.wait_until_succeeds("ip -4 address show dev eth0 | grep 'inet 10\\.0\\.2\\.15/24'", timeout=60)


def http_get(at: str, port: int) -> str:
    """A command that writes what a web server answers."""
    return f"exec 3<>/dev/tcp/{at}/{port}; printf 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"


start_all()

with subtest("an address by DHCP, on the card that has the place and the address of QEMU's"):
    get_address(machine)
    assert "192.168.1.2/" in machine.succeed("ip address show dev eth1")
    assert "10.0.2.2" in machine.succeed("ip route show default")
    machine.wait_until_succeeds("ip -6 address show dev eth0 | grep fec0: | grep -v tentative", timeout=60)
    machine.succeed("ping -c 1 -W 5 10.0.2.2", "ping -c 1 -W 5 fec0::2")

with subtest("a server on the host's loopback"):
    got = machine.succeed(f"({http_get('10.0.2.2', port)}) | tail -c {len(BLOB)} | sha256sum")
    assert got.split()[0] == hashlib.sha256(BLOB).hexdigest(), got
    machine.succeed("head -c 2097152 /dev/urandom > /tmp/up")
    put = f"(printf 'PUT /x HTTP/1.0\\r\\nContent-Length: 2097152\\r\\n\\r\\n'; cat /tmp/up) >&3; cat <&3"
    answer = machine.succeed(f"exec 3<>/dev/tcp/10.0.2.2/{port}; {put}")
    assert machine.succeed("sha256sum < /tmp/up").split()[0] in answer, answer
    machine.fail("timeout 20 bash -c 'exec 3<>/dev/tcp/10.0.2.2/1'")

with subtest("the host's resolver"):
    machine.succeed("echo nameserver 10.0.2.3 > /run/resolv.conf", "ln -sf /run/resolv.conf /etc/resolv.conf")
    assert ADDRESS in machine.succeed("getent ahostsv4 somewhere.example")
    assert any(b"\x09somewhere\x07example" in question for question in questions)

SERVE = (
    "systemd-run --unit=web bash -c \"while true; do printf 'HTTP/1.0 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello' "
    '| nc -N -l 80; done"'
)


def visit(port: int) -> bytes:
    """What the guest serves; it takes one visitor after the other."""
    for _ in range(20):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"nobody answers at port {port}")


with subtest("ports of the host that lead to the guest"):
    machine.succeed(SERVE)
    machine.wait_for_open_port(80)
    assert visit(2080) == b"hello"
    free = machine.forward_port(host_port=0, guest_port=80)
    assert free not in (0, 2080) and visit(free) == b"hello"

with subtest("block is about the first VLAN"):
    machine.block()
    machine.wait_until_succeeds("test \"$(cat /sys/class/net/eth1/carrier)\" = 0")
    assert machine.succeed("cat /sys/class/net/eth0/carrier").strip() == "1"
    machine.unblock()

with subtest("a restricted guest"):
    get_address(alone)
    assert alone.succeed("ip route show default") == ""
    visits = len(Page.visits)
    asked = len(questions)
    alone.succeed("ping -c 1 -W 5 10.0.2.2", "ip route add default via 10.0.2.2")
    for to in ("10.0.2.2", ADDRESS):
        alone.fail(f"timeout 10 bash -c 'exec 3<>/dev/tcp/{to}/{port}'")
    alone.succeed("echo x > /dev/udp/10.0.2.3/53", "echo x > /dev/udp/10.0.2.2/5353")
    time.sleep(1)
    assert (len(Page.visits), len(questions)) == (visits, asked)
    alone.succeed(SERVE)
    alone.wait_for_open_port(80)
    assert visit(alone.forward_port(0, 80)) == b"hello"

with subtest("a reset leaves the forwards"):
    machine.shutdown()
    machine.start(allow_reboot=True)
    get_address(machine)
    free = machine.forward_port(0, 80)
    machine.succeed(SERVE)
    assert visit(free) == b"hello"
    machine.reboot()
    get_address(machine)
    machine.succeed(SERVE)
    assert visit(free) == b"hello" and visit(2080) == b"hello"
