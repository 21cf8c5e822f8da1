# Two machines with two cables between them, bonded: either cable may be pulled.

start_all()
client1.wait_for_unit("network.target")
client2.wait_for_unit("network.target")

# What NixOS modules would have configured.
for number, node in enumerate([client1, client2], 1):
    node.succeed(
        "modprobe bonding max_bonds=0",
        "ip link add bond0 type bond mode broadcast miimon 100",
        "ip address flush dev eth1; ip address flush dev eth2",
        "ip link set eth1 down; ip link set eth1 master bond0",
        "ip link set eth2 down; ip link set eth2 master bond0",
        f"ip address add 10.20.30.{number}/24 dev bond0",
        "ip link set bond0 up",
    )


# The test.
def wait_for_cable(card, state):
    client1.wait_until_succeeds(
        f"grep -A 1 'Slave Interface: {card}' /proc/net/bonding/bond0 | grep 'MII Status: {state}'", timeout=60
    )


with subtest("the bond has both cards and carries packets"):
    for node in [client1, client2]:
        t.assertEqual({"eth1", "eth2"}, set(node.succeed("cat /sys/class/net/bond0/bonding/slaves").split()))
    # One of the cards took the other's address.
    t.assertEqual(1, len(set(client1.succeed("cat /sys/class/net/{bond0,eth1,eth2}/address").split())))
    client1.wait_until_succeeds("ping -c 1 -W 2 10.20.30.2", timeout=60)
    client2.succeed("ping -c 2 10.20.30.1", "ping -c 1 -s 20000 10.20.30.1")

with subtest("packets go over both cables"):
    client2.succeed("cat /sys/class/net/eth1/statistics/rx_packets > /tmp/1; cat /sys/class/net/eth2/statistics/rx_packets > /tmp/2")
    client1.succeed("ping -c 5 -i 0.2 10.20.30.2")
    for card in [1, 2]:
        client2.succeed(f"test $(cat /sys/class/net/eth{card}/statistics/rx_packets) -ge $(($(cat /tmp/{card}) + 5))")

with subtest("one cable is pulled"):
    client1.block()
    wait_for_cable("eth1", "down")
    client1.succeed("test 1 = $(cat /sys/class/net/bond0/carrier)")
    client1.succeed("ping -c 3 10.20.30.2")
    client2.succeed("ping -c 1 10.20.30.1")

with subtest("the other one, too"):
    client1.succeed("ip link set eth2 down")
    client1.wait_until_succeeds("test 0 = $(cat /sys/class/net/bond0/carrier)", timeout=60)
    client2.fail("ping -c 1 -W 2 10.20.30.1")

with subtest("the first one is plugged in again"):
    client1.unblock()
    wait_for_cable("eth1", "up")
    client2.wait_until_succeeds("ping -c 1 -W 2 10.20.30.1", timeout=60)
