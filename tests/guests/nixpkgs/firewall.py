# A machine behind its own firewall, and one that would like in.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
for node in [walled, attacker]:
    node.succeed("rm -f /var/www/html/*; echo a page > /var/www/html/index.html", "systemctl start --no-block nginx.service")
walled.succeed(
    dedent(
        """
        cat > /etc/nftables.conf <<'EOF'
        #!/usr/sbin/nft -f
        flush ruleset
        table inet filter {
            chain input {
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                iifname "lo" accept
                meta l4proto { icmp, ipv6-icmp } accept
                tcp dport 2222 accept
                log prefix "refused: " counter drop
            }
        }
        EOF
        """
    ),
    "systemctl start --no-block nftables.service",
)

# The test.
walled.wait_for_unit("nftables")
walled.wait_for_unit("nginx")
attacker.wait_for_unit("nginx")

with subtest("local connections still work"):
    walled.succeed("curl --fail http://localhost/ >&2")

with subtest("connections to the walled machine fail, pings pass"):
    attacker.fail("curl --fail --connect-timeout 2 http://walled/ >&2")
    attacker.fail("curl -6 --fail --connect-timeout 2 http://walled/ >&2")
    attacker.succeed("ping -c 1 walled >&2", "ping -6 -c 1 walled >&2")
    walled.wait_for_console_text("refused: .*DPT=80 ", timeout=60)

with subtest("outgoing connections still work"):
    walled.succeed("curl --fail http://attacker/ >&2", "ping -c 1 attacker >&2")

with subtest("an open port is open"):
    walled.succeed("systemd-run --unit=allowed nc -lk 2222")
    walled.wait_for_open_port(2222)
    attacker.succeed("nc -z walled 2222")
    attacker.fail("nc -z -w 2 walled 2223")

with subtest("without the firewall connections succeed"):
    walled.stop_job("nftables")
    attacker.succeed("curl --fail http://walled/ >&2")
    attacker.fail("nc -z -w 2 walled 2223")

with subtest("and with it again they do not"):
    walled.start_job("nftables")
    walled.wait_for_unit("nftables")
    attacker.wait_until_fails("curl --fail --connect-timeout 2 http://walled/ >&2", timeout=60)
    attacker.wait_for_open_port(2222, "walled")
