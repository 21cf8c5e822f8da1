# What tests of networks use besides tags and bonds: frames of 9000 bytes, groups, tags that are only a priority, VLAN 0, a machine
# that is on one VLAN twice, and one that bridges two VLANs.
from pathlib import Path

PROGRAM = Path("tests/guests/programs/group.py").absolute()
GROUP = "python3 /run/group.py"

start_all()
for node in [left, middle, right]:
    node.wait_for_unit("multi-user.target")
    node.copy_from_host(str(PROGRAM), "/run/group.py")


def join(node, card, group, port):
    """Starts to hear a group's first datagram, which will be in the file that is named."""
    file = f"/run/heard-{port}"
    node.succeed(f"systemd-run --unit=member-{port} {GROUP} join {card} {group} {port} {file}")
    node.wait_until_succeeds(f"journalctl -u member-{port} | grep joined", timeout=60)
    return file


with subtest("VLAN 0 is a network as others are"):
    assert left.succeed("cat /sys/class/net/eth2/address") == "52:54:00:12:00:01\n"
    left.succeed("ping -c 2 192.168.0.3", "ping -c 1 2001:db8:0::3")

with subtest("a machine that is on one VLAN twice"):
    # As on NixOS both cards have one Ethernet address and one IP address.
    for card in ["eth1", "eth2"]:
        assert right.succeed(f"cat /sys/class/net/{card}/address") == "52:54:00:12:02:03\n"
    middle.succeed("ping -c 2 192.168.2.3", "ping -c 1 2001:db8:2::3", "ping -c 1 -s 30000 192.168.2.3")
    for down, up in [("eth1", "eth2"), ("eth2", "eth1")]:
        right.succeed(f"ip link set {down} down")
        # The switch learns from what it says where it is now.
        right.wait_until_succeeds("ping -c 1 -W 2 192.168.2.2", timeout=60)
        middle.succeed("ping -c 2 192.168.2.3")
        right.succeed(f"ip link set {down} up")
    right.succeed("ip link set eth2 down")

with subtest("frames of 9000 bytes, none of them in pieces"):
    for node in [left, middle]:
        node.succeed("ip link set eth1 mtu 9000")
    left.succeed("ping -c 3 -M do -s 8972 192.168.1.2", "ping -6 -c 3 -M do -s 8952 2001:db8:1::2")
    middle.succeed("ping -c 3 -M do -s 8972 192.168.1.1")
    left.fail("ping -c 1 -W 2 -M do -s 8973 192.168.1.2")

with subtest("the same behind a tag, which makes them longer"):
    for number, node in [(1, left), (2, middle)]:
        node.succeed(
            "ip link add link eth1 name tagged type vlan id 10",
            f"ip address add 10.10.0.{number}/24 dev tagged",
            "ip link set tagged mtu 9000 up",
        )
    left.wait_until_succeeds("ping -c 1 -W 2 10.10.0.2", timeout=60)
    left.succeed("ping -c 3 -M do -s 8972 10.10.0.2")

with subtest("a tag that is only a priority"):
    file = join(middle, "eth1", "239.9.9.8", 5008)
    mac = middle.succeed("cat /sys/class/net/eth1/address").strip()
    left.succeed(f"{GROUP} tagged eth1 0xe000 {mac} 192.168.1.1 192.168.1.2 5008 urgent")
    middle.wait_until_succeeds(f"grep urgent {file}", timeout=60)

with subtest("groups of IPv4 and IPv6, with the words that join them"):
    with vlan1.capture("groups.pcapng") as capture:
        files = [join(middle, "eth1", "239.9.9.9", 5009), join(middle, "eth1", "ff15::99", 5010)]
        # IGMPv3 and MLDv2 say it more than once (RFC 3376, 8.14.1).
        left.succeed(f"{GROUP} say eth1 239.9.9.9 5009 hello", f"{GROUP} say eth1 ff15::99 5010 hello")
        for file in files:
            middle.wait_until_succeeds(f"grep hello {file}", timeout=60)
    words = capture.path.read_bytes()
    own = bytes.fromhex("525400120102")
    for group in ["01005e000016", "333300000016"]:
        assert bytes.fromhex(group) + own in words, group

with subtest("a machine that bridges two VLANs"):
    middle.succeed(
        "ip address flush dev eth1; ip address flush dev eth2",
        "ip link add br0 type bridge stp_state 0",
        "ip link set eth1 mtu 1500; ip link set eth1 master br0; ip link set eth2 master br0; ip link set br0 up",
    )
    left.succeed("ip link set eth1 mtu 1500", "ip address add 10.9.0.1/24 dev eth1")
    right.succeed("ip address add 10.9.0.3/24 dev eth1")
    left.wait_until_succeeds("ping -c 1 -W 2 10.9.0.3", timeout=60)
    right.succeed("ping -c 2 10.9.0.1", "ping -c 1 -s 20000 10.9.0.1")
    # The bridge hears what is for others, and passes it on under their addresses.
    assert "52:54:00:12:02:03" in left.succeed("ip neighbour show 10.9.0.3")
    right.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum > /tmp/sum'")
    right.wait_until_succeeds("ss -Hltn | grep ':9000 '", timeout=60)
    left.succeed("head -c 5000000 /dev/urandom > /tmp/data", "nc -N 10.9.0.3 9000 < /tmp/data", timeout=300)
    wanted = left.succeed("sha256sum < /tmp/data").split()[0]
    right.wait_until_succeeds(f"grep {wanted} /tmp/sum", timeout=60)

with subtest("a group across the bridge"):
    file = join(right, "eth1", "239.9.9.7", 5007)
    left.succeed(f"{GROUP} say eth1 239.9.9.7 5007 hello")
    right.wait_until_succeeds(f"grep hello {file}", timeout=60)

for node in [left, middle, right]:
    node.crash()
