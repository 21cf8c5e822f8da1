# A tunnel between two peers.

start_all()
peer0.wait_for_unit("network.target")
peer1.wait_for_unit("network.target")

# What NixOS modules would have configured.
keys = {}
for node in [peer0, peer1]:
    private = node.succeed("umask 77; wg genkey | tee /root/key").strip()
    keys[node.name] = node.succeed(f"echo {private} | wg pubkey").strip()
for number, node, other in [(1, peer0, peer1), (2, peer1, peer0)]:
    node.succeed(
        "ip link add wg0 type wireguard",
        "wg set wg0 listen-port 23542 private-key /root/key",
        f"wg set wg0 peer '{keys[other.name]}' allowed-ips 10.23.42.{3 - number}/32,fc00::{3 - number}/128"
        f" endpoint 192.168.1.{3 - number}:23542 persistent-keepalive 5",
        f"ip address add 10.23.42.{number}/24 dev wg0",
        f"ip address add fc00::{number}/64 dev wg0",
        "ip link set wg0 up",
    )

# The test.
with subtest("peers reach each other through the tunnel"):
    peer1.wait_until_succeeds("ping -c 1 -W 2 10.23.42.1 >&2", timeout=60)
    peer0.succeed("ping -c 1 fc00::2 >&2", "ping -c 1 -s 20000 10.23.42.2 >&2")
    assert int(peer0.succeed("wg show wg0 latest-handshakes | cut -f2")) > 0

with subtest("what is on the wire is not what is in the tunnel"):
    peer1.succeed("systemd-run --unit=capture tcpdump -U -i eth1 -w /tmp/capture udp port 23542 or icmp")
    peer1.wait_until_succeeds("journalctl -u capture | grep 'listening on'", timeout=60)
    peer0.succeed("ping -c 2 -p 736e6f77 10.23.42.2 >&2")
    peer1.wait_until_succeeds("test $(stat -c %s /tmp/capture) -gt 500", timeout=60)
    peer1.succeed("systemctl stop capture")
    peer1.fail("grep -q snowsnowsnow /tmp/capture")
    peer1.succeed("tcpdump -n -r /tmp/capture 2>/dev/null | grep 'UDP'")

with subtest("streams are whole"):
    peer1.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum > /tmp/sum'")
    peer1.wait_until_succeeds("ss -Hltn | grep ':9000 '", timeout=60)
    peer0.succeed("head -c 3000000 /dev/urandom > /tmp/data", "nc -N 10.23.42.2 9000 < /tmp/data")
    wanted = peer0.succeed("sha256sum < /tmp/data").split()[0]
    peer1.wait_until_succeeds(f"grep {wanted} /tmp/sum", timeout=60)

with subtest("the tunnel outlives a pulled cable"):
    peer0.block()
    peer1.fail("ping -c 1 -W 2 10.23.42.1 >&2")
    peer0.unblock()
    peer1.wait_until_succeeds("ping -c 1 -W 2 10.23.42.1 >&2", timeout=60)

with subtest("a stranger's key opens nothing"):
    peer0.succeed("wg genkey > /root/other", "wg set wg0 private-key /root/other")
    peer1.fail("ping -c 1 -W 3 10.23.42.1 >&2")
    peer0.succeed("wg set wg0 private-key /root/key")
    peer1.wait_until_succeeds("ping -c 1 -W 2 10.23.42.1 >&2", timeout=60)
