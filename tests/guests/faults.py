# Faults between two machines, as ping sees them, on a network that has a name.
import re

t.assertIs(wire, vlan1)
t.assertEqual((wire.name, wire.nr, wire.machines), ("wire", 1, ["machine1", "machine2"]))
whole = wire.capture("faults.pcapng")
start_all()
machine1.wait_for_unit("multi-user.target")
machine2.wait_for_unit("multi-user.target")
PING = "ping -q -i 0.2 -W 2 "


def received(count):
    """How many of so many pings were answered."""
    said = machine1.execute(f"{PING} -c {count} 192.168.1.2")[1]
    return int(re.search(r"(\d+) received", said)[1])


with subtest("a delay in both directions"):
    # Its number, which the manifest gives, is that of the guests' addresses.
    assert machine1.succeed("cat /sys/class/net/eth1/address") == "52:54:00:12:01:01\n"
    machine1.succeed("ping -c 2 192.168.1.2")
    wire.impair(machine1, machine2, delay="150ms", seed=1)
    best = re.search(r"= ([\d.]+)/", machine1.succeed(f"{PING} -c 5 192.168.1.2"))
    assert 300 <= float(best[1]) < 1000, best[0]

with subtest("losses of a seed"):
    wire.impair(machine1, machine2, loss=0.3, seed=7)
    assert 2 <= received(20) <= 18
    wire.impair(machine1, machine2, both=False, loss=1, seed=7)
    assert received(3) == 0
    wire.heal()
    assert received(3) == 3

with subtest("streams survive what is lost, doubled, late and flipped"):
    wire.impair(machine1, machine2, loss="2%", duplicate="2%", corrupt="2%", reorder="5%", reorder_by="2ms", seed=3)
    machine2.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum >/tmp/sum' >&2")
    machine2.wait_until_succeeds("ss -Hltn | grep -q ':9000 '", timeout=60)
    machine1.succeed("head -c 1000000 /dev/urandom >/tmp/data")
    sent = machine1.succeed("nc -N 192.168.1.2 9000 </tmp/data", "sha256sum </tmp/data", timeout=300)
    machine2.wait_until_succeeds("grep -F '" + sent.split()[0] + "' /tmp/sum", timeout=120)
    wire.heal(machine1, machine2)

with subtest("a partition"):
    network.partition([machine1], [machine2])
    machine1.fail("ping -c 2 -W 1 192.168.1.2")
    assert machine1.succeed("cat /sys/class/net/eth1/carrier") == "1\n"
    wire.heal()
    machine1.wait_until_succeeds("ping -c 1 -W 1 192.168.1.2", timeout=60)

with subtest("a cut in one direction"):
    wire.cut(machine2, machine1, both=False)
    machine1.fail("ping -c 2 -W 1 192.168.1.2")
    before = int(machine2.succeed("cat /sys/class/net/eth1/statistics/rx_packets"))
    machine1.fail("ping -c 2 -W 1 192.168.1.2")
    assert int(machine2.succeed("cat /sys/class/net/eth1/statistics/rx_packets")) >= before + 2
    wire.heal()

with subtest("a capture"):
    whole.stop()
    data = whole.path.read_bytes()
    assert data[:4] == b"\x0a\x0d\x0d\x0a", data[:4]
    for part in (
        b"machine1:eth1",
        b"machine2:eth1",
        b"\3\0\4\0wire",
        b"dropped on its way from machine1:eth1: loss",
        b"dropped on its way from machine1:eth1: the way is cut",
        b", a duplicate",
        b" flipped",
    ):
        assert part in data, part

machine1.crash()
machine2.crash()
