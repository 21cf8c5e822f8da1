# IPv6: a router that announces itself, a client that makes its address from that, duplicate addresses, link-local ones.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
router.succeed(
    "sysctl -q net.ipv6.conf.all.forwarding=1",
    "ip -6 address add 2001:db8:99::1/128 dev lo",
    dedent(
        """
        cat > /etc/radvd.conf <<'EOF'
        interface eth1 {
            AdvSendAdvert on;
            MinRtrAdvInterval 3;
            MaxRtrAdvInterval 5;
            AdvDefaultLifetime 60;
            prefix 2001:db8:42::/64 { AdvOnLink on; AdvAutonomous on; };
        };
        EOF
        """
    ),
    "ip -6 address add 2001:db8:42::1/64 dev eth1",
    "rm -f /var/www/html/*; echo a page > /var/www/html/index.html",
    "systemctl start --no-block nginx.service",
)

# The test.
def wait_for_address(machine, address):
    machine.wait_until_succeeds(f"ip -o -6 address show dev eth1 -tentative | grep -F '{address}/'", timeout=120)


client.wait_for_unit("network.target")
router.wait_for_unit("nginx")

with subtest("addresses that need no router"):
    wait_for_address(client, "fe80::5054:ff:fe12:101")
    wait_for_address(router, "fe80::5054:ff:fe12:102")
    client.succeed("ping -c 1 ::1 >&2")
    client.succeed("ping -c 1 fe80::5054:ff:fe12:102%eth1 >&2")
    client.succeed("curl --fail 'http://[fe80::5054:ff:fe12:102%25eth1]/' >&2")
    client.fail("ip -6 route get 2001:db8:99::1")

with subtest("everybody on the link answers"):
    client.wait_until_succeeds("test 2 = $(ping -c 3 ff02::1%eth1 | grep -o 'from fe80[^%]*' | sort -u | wc -l)", timeout=60)
    client.wait_until_succeeds("ip -6 neighbour | grep -F '52:54:00:12:01:02'", timeout=60)

with subtest("the router announces a network"):
    router.succeed("systemctl start radvd.service")
    router.wait_for_unit("radvd")
    wait_for_address(client, "2001:db8:42:0:5054:ff:fe12:101")
    client.succeed("ip -6 route | grep '^default via fe80::5054:ff:fe12:102 dev eth1'")

with subtest("the client reaches what is behind the router"):
    client.succeed("ping -c 1 2001:db8:99::1 >&2")
    client.succeed("curl --fail 'http://[2001:db8:99::1]/' >&2")
    router.succeed("tail -n 1 /var/log/nginx/access.log | grep '^2001:db8:42:0:5054:ff:fe12:101 '")
    router.succeed("ping -c 1 2001:db8:42:0:5054:ff:fe12:101 >&2")

with subtest("an address that is taken is not used"):
    client.succeed("ip -6 address add 2001:db8:42::1/64 dev eth1")
    client.wait_until_succeeds("ip -o -6 address show dev eth1 dadfailed | grep -F '2001:db8:42::1/'", timeout=60)
    client.succeed("ip -6 address del 2001:db8:42::1/64 dev eth1")
    client.succeed("ping -c 1 2001:db8:42::1 >&2")

with subtest("the router says good-bye"):
    router.succeed("systemctl stop radvd.service")
    client.wait_until_fails("ip -6 route | grep '^default'", timeout=120)
    client.fail("ping -c 1 -W 2 2001:db8:99::1 >&2")
