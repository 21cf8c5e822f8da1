# A router that gives out addresses and names, and a client that asks for them.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
router.succeed(
    dedent(
        """
        cat > /etc/dnsmasq.d/test.conf <<'EOF'
        interface=eth1
        bind-interfaces
        no-resolv
        no-hosts
        domain=example.test
        local=/example.test/
        dhcp-range=192.168.1.100,192.168.1.150,255.255.255.0,1h
        dhcp-authoritative
        no-ping
        address=/www.example.test/192.168.1.2
        cname=web.example.test,www.example.test
        host-record=www.example.test,2001:db8:1::2
        txt-record=example.test,"some words"
        mx-host=example.test,mail.example.test,50
        EOF
        """
    ),
    "ip route add 10.99.0.0/16 dev lo",
    "ip address add 10.99.0.1/32 dev lo",
    "systemctl start --no-block dnsmasq.service",
)
client.succeed(
    "ip address flush dev eth1 scope global",
    "printf 'noipv6\\nnohook hostname\\nhostname\\n' >> /etc/dhcpcd.conf",
)

# The test.
router.wait_for_unit("dnsmasq")
router.wait_for_open_port(53, "192.168.1.2")

with subtest("a lease"):
    client.fail("ping -c 1 -W 1 192.168.1.2")
    client.succeed("systemd-run --unit=dhcpcd --service-type=forking --property=PIDFile=/run/dhcpcd/eth1-4.pid dhcpcd -4 -w eth1")
    client.wait_for_unit("dhcpcd.service")
    address = client.succeed("ip -4 -o address show eth1 | awk '{print $4}'").strip()
    host, _, prefix = address.partition("/")
    assert prefix == "24" and 100 <= int(host.split(".")[3]) <= 150, address
    client.succeed("ping -c 1 192.168.1.2")
    router.succeed(f"ping -c 1 {host}")
    router.succeed(f"grep -F '52:54:00:12:01:01 {host}' /var/lib/misc/dnsmasq.leases")

with subtest("the lease has a way out"):
    client.succeed("ip route | grep '^default via 192.168.1.2 dev eth1'")
    client.succeed("ping -c 1 10.99.0.1")

with subtest("the lease has a name server, which knows names"):
    client.wait_until_succeeds("grep 'nameserver 192.168.1.2' /etc/resolv.conf", timeout=60)
    assert "192.168.1.2" in client.succeed("getent ahostsv4 www.example.test")
    assert "has IPv6 address 2001:db8:1::2" in client.succeed("host -t AAAA www.example.test")
    assert "is an alias for www.example.test" in client.succeed("host web.example.test")
    assert "some words" in client.succeed("host -t TXT example.test")
    assert "50 mail.example.test" in client.succeed("host -t MX example.test")
    client.fail("host missing.example.test")
    client.succeed("host -T www.example.test 192.168.1.2")

with subtest("the client's own name"):
    assert host in client.succeed("host client.example.test 192.168.1.2")

with subtest("the address stays the same over a pulled cable"):
    client.block()
    client.wait_until_succeeds("test 0 = $(cat /sys/class/net/eth1/carrier)", timeout=60)
    client.unblock()
    # The DHCP client may still be about to notice: it takes the address away, and gets the same one again.
    client.wait_until_succeeds(f"ip -4 -o address show eth1 | grep -F ' {address} ' && ping -c 1 -W 1 192.168.1.2", timeout=120)
