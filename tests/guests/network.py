# Two machines and the switch between them.
start_all()
machine1.wait_for_unit("multi-user.target")
machine2.wait_for_unit("multi-user.target")

with subtest("addresses"):
    assert machine1.succeed("cat /sys/class/net/eth1/address") == "52:54:00:12:01:01\n"
    assert machine2.succeed("cat /sys/class/net/eth1/address") == "52:54:00:12:01:02\n"
    machine1.succeed("ip address show eth1 | grep -F 192.168.1.1/24", "ip address show eth1 | grep -F 2001:db8:1::1/64")

with subtest("every kind of frame"):
    machine1.succeed("ping -c 1 machine2", "ping -4 -c 1 machine2", "ping -6 -c 1 machine2")
    machine2.succeed("ping -c 1 machine1", "ping -c 1 -s 30000 192.168.1.1", "ping -c 2 -I eth1 ff02::1")

with subtest("streams are whole, with segments cut as late as can be"):
    machine2.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum >/tmp/sum' >&2")
    machine2.wait_until_succeeds("ss -Hltn | grep -q ':9000 '", timeout=60)
    sent = machine1.succeed("head -c 50000000 /dev/urandom >/tmp/data", "nc -N machine2 9000 </tmp/data", "sha256sum </tmp/data")
    machine2.wait_until_succeeds("grep -F '" + sent.split()[0] + "' /tmp/sum", timeout=120)

with subtest("a pulled cable"):
    machine1.block()
    machine1.wait_until_succeeds("test $(cat /sys/class/net/eth1/carrier) = 0", timeout=60)
    machine2.fail("ping -c 1 -W 1 192.168.1.1")
    machine1.unblock()
    machine1.wait_until_succeeds("test $(cat /sys/class/net/eth1/carrier) = 1", timeout=60)
    machine2.wait_until_succeeds("ping -c 1 -W 1 192.168.1.1", timeout=60)

machine1.shutdown()
machine2.crash()
