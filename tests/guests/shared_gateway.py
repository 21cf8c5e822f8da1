"""A user network that two machines share: addresses by their numbers, the host's services for both, and forwards that name one."""

import hashlib
import http.server
import socketserver
import threading
import time
import urllib.error
import urllib.request

BLOB = hashlib.sha256(b"blob").digest() * 8192  # 256 KiB
LEASES = {"one": "10.0.2.15", "two": "10.0.2.16"}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB)

    def log_message(self, *_) -> None:
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


web = Server(("127.0.0.1", 0), Page)
threading.Thread(target=web.serve_forever, daemon=True).start()
port = web.server_address[1]

LEASE = """
cat > /run/systemd/network/eth1.network <<END
[Match]
MACAddress={mac}
[Network]
DHCP=ipv4
IPv6AcceptRA=yes
END
systemctl unmask systemd-networkd.service systemd-networkd.socket
systemctl start systemd-networkd
"""
SERVE = (
    "systemd-run --unit=web bash -c \"while true; do printf 'HTTP/1.0 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\n%s' {name} "
    '| nc -N -l 80; done"'
)


def read(at: str, port: int) -> str:
    """A command that writes what a web server answers."""
    return f"exec 3<>/dev/tcp/{at}/{port}; printf 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"


def visit(port: int) -> bytes:
    """What a guest serves; it takes one visitor after the other."""
    for _ in range(20):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"nobody answers at port {port}")


start_all()

with subtest("each has the address of its number, whichever asks first"):
    for number, guest in ((2, two), (1, one)):
        guest.wait_for_unit("multi-user.target")
        guest.succeed("mkdir -p /run/systemd/network", LEASE.format(mac=f"52:54:00:12:01:{number:02}"))
    for guest in (one, two):
        lease = LEASES[guest.name].replace(".", "\\.")
        guest.wait_until_succeeds(f"ip -4 address show dev eth1 | grep 'inet {lease}/24'", timeout=60)
        assert "10.0.2.2" in guest.succeed("ip route show default")
        guest.wait_until_succeeds("ip -6 address show dev eth1 | grep fec0: | grep -v tentative", timeout=60)

with subtest("both read from a server of the host's"):
    for guest in (one, two):
        guest.succeed("ping -c 1 -W 5 10.0.2.2")
        got = guest.succeed(f"({read('10.0.2.2', port)}) | tail -c {len(BLOB)} | sha256sum")
        assert got.split()[0] == hashlib.sha256(BLOB).hexdigest(), got

with subtest("each reaches the other by its lease"):
    for guest in (one, two):
        guest.succeed(SERVE.format(name=guest.name))
        guest.wait_for_open_port(80)
    for guest, other in ((one, two), (two, one)):
        assert guest.succeed(read(LEASES[other.name], 80)).endswith(other.name)

with subtest("forwards lead to the machine that they name"):
    assert visit(2081) == b"two"
    assert visit(one.forward_port(0, 80)) == b"one"
    assert visit(two.forward_port(0, 80)) == b"two"
