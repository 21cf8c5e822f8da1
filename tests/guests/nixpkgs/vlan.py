# Frames with 802.1Q tags between two machines: networks that share a wire and do not meet.

start_all()
machine1.wait_for_unit("network.target")
machine2.wait_for_unit("network.target")

# What NixOS modules would have configured.
for number, node in enumerate([machine1, machine2], 1):
    for tag in [10, 20]:
        node.succeed(
            f"ip link add link eth1 name vlan{tag} type vlan id {tag}",
            f"ip address add 10.{tag}.0.{number}/24 dev vlan{tag}",
            f"ip link set vlan{tag} up",
        )

# The test.
with subtest("tagged networks and the untagged one"):
    machine1.wait_until_succeeds("ping -c 1 -W 2 10.10.0.2", timeout=60)
    machine2.succeed("ping -c 1 10.10.0.1", "ping -c 1 10.20.0.1", "ping -c 1 192.168.1.1")

with subtest("the tag is on the wire"):
    machine2.succeed("systemd-run --unit=capture tcpdump -U -i eth1 -w /tmp/capture -e vlan and icmp")
    machine2.wait_until_succeeds("journalctl -u capture | grep 'listening on'", timeout=60)
    machine1.succeed("ping -c 1 10.10.0.2", "ping -c 1 10.20.0.2")
    machine2.wait_until_succeeds("tcpdump -e -n -r /tmp/capture 2>/dev/null | grep 'vlan 20, .*10.20.0.1 > 10.20.0.2'", timeout=60)
    machine2.succeed("tcpdump -e -n -r /tmp/capture 2>/dev/null | grep 'vlan 10, .*10.10.0.1 > 10.10.0.2'")
    machine2.succeed("systemctl stop capture")

with subtest("another tag is another network"):
    machine2.succeed("ip link del vlan20", "ip link add link eth1 name vlan30 type vlan id 30")
    machine2.succeed("ip address add 10.20.0.2/24 dev vlan30", "ip link set vlan30 up")
    machine1.fail("ping -c 1 -W 2 10.20.0.2")
    machine1.succeed("ping -c 1 10.10.0.2")

with subtest("streams and large packets go through a tagged network"):
    machine1.succeed("ping -c 1 -s 20000 10.10.0.2")
    machine2.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum > /tmp/sum'")
    machine2.wait_until_succeeds("ss -Hltn | grep ':9000 '", timeout=60)
    machine1.succeed("head -c 10000000 /dev/urandom > /tmp/data", "nc -N 10.10.0.2 9000 < /tmp/data")
    wanted = machine1.succeed("sha256sum < /tmp/data").split()[0]
    machine2.wait_until_succeeds(f"grep {wanted} /tmp/sum", timeout=60)

with subtest("a tag within a tag"):
    for number, node in enumerate([machine1, machine2], 1):
        node.succeed(
            "ip link add link eth1 name outer type vlan proto 802.1ad id 100",
            "ip link add link outer name inner type vlan id 5",
            f"ip address add 10.5.0.{number}/24 dev inner",
            "ip link set outer up",
            "ip link set inner up",
        )
    machine1.wait_until_succeeds("ping -c 1 -W 2 10.5.0.2", timeout=60)
    machine1.succeed("ping -c 1 -s 3000 10.5.0.2")

with subtest("a pulled cable takes all of them"):
    machine1.block()
    machine1.wait_until_succeeds("test 0 = $(cat /sys/class/net/vlan10/carrier)", timeout=60)
    machine2.fail("ping -c 1 -W 2 10.10.0.1")
    machine1.unblock()
    machine2.wait_until_succeeds("ping -c 1 -W 2 10.10.0.1", timeout=60)
