# A client in a private network, a router that translates addresses, a server outside that knows nothing of the inside.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
router.succeed(
    "sysctl -q net.ipv4.ip_forward=1",
    dedent(
        """
        cat > /etc/nftables.conf <<'EOF'
        #!/usr/sbin/nft -f
        flush ruleset
        table ip nat {
            chain prerouting {
                type nat hook prerouting priority dstnat;
                iifname "eth2" tcp dport 8080 dnat to 192.168.1.1:80
            }
            chain postrouting {
                type nat hook postrouting priority srcnat;
                oifname "eth2" masquerade
            }
        }
        EOF
        """
    ),
    "systemctl start --no-block nftables.service",
)
client.succeed("ip route add default via 192.168.1.2")
for node, text in [(client, "inside"), (server, "outside")]:
    node.succeed(f"rm -f /var/www/html/*; echo {text} > /var/www/html/index.html")
    node.succeed("systemctl start --no-block nginx.service")
server.succeed(
    "mkdir -p /srv/ftp; echo 'a file' > /srv/ftp/foo.txt",
    "printf 'listen=YES\\nlisten_ipv6=NO\\nanonymous_enable=YES\\n' >> /etc/vsftpd.conf",
    "systemctl start --no-block vsftpd.service",
)

# The test.
router.wait_for_unit("nftables")
server.wait_for_unit("nginx")
server.wait_for_unit("vsftpd")
client.wait_for_unit("network.target")

with subtest("the client reaches the server"):
    client.succeed("curl --fail http://192.168.2.3/ | grep -x outside")
    client.succeed("ping -c 1 192.168.2.3 >&2")

with subtest("the server sees the router"):
    server.succeed("tail -n 1 /var/log/nginx/access.log | grep '^192.168.2.2 '")

with subtest("passive FTP"):
    client.succeed("curl -sv ftp://192.168.2.3/foo.txt | grep -x 'a file'")

with subtest("the server does not reach the client"):
    server.fail("ping -c 1 -W 2 192.168.1.1 >&2")
    server.fail("curl --fail --connect-timeout 2 http://192.168.1.1/ >&2")

with subtest("but for a forwarded port"):
    client.wait_for_unit("nginx")
    server.succeed("curl --fail http://192.168.2.2:8080/ | grep -x inside")

with subtest("no way out without the router's tables"):
    router.stop_job("nftables")
    client.fail("curl --fail --connect-timeout 3 http://192.168.2.3/ >&2")
    client.fail("ping -c 1 -W 2 192.168.2.3 >&2")

with subtest("and again with them"):
    router.start_job("nftables")
    client.wait_until_succeeds("curl --fail --connect-timeout 3 http://192.168.2.3/ >&2", timeout=60)
