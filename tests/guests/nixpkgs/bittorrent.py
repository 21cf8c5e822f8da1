# A file by BitTorrent out of a private network: client1 is behind a router that translates addresses, and has it open a port
# by UPnP, through which client2 gets the file from client1 when the first seeder is gone.
import re
from textwrap import dedent

# Addresses that UPnP servers take for public ones: for a private one they refuse to open anything.
OUTSIDE = {router: "80.100.100.1", client2: "80.100.100.2", tracker: "80.100.100.3"}
PORT = 51413
ANNOUNCE = f"http://{OUTSIDE[tracker]}:6969/announce"

start_all()

# What NixOS modules would have configured.
for node, address in OUTSIDE.items():
    node.succeed("ip address flush dev eth1 scope global", f"ip address add {address}/24 dev eth1")
client1.succeed("ip route add default via 192.168.2.3")
router.succeed(
    "sysctl -q net.ipv4.ip_forward=1",
    dedent(
        f"""
        cat > /etc/nftables.conf <<'EOF'
        table inet upnp {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                ip saddr {OUTSIDE[client2]} ip daddr 192.168.2.1 ct state new counter
                jump forward_upnp
                # Else client1 could come to client2, and no port would be needed.
                iifname "eth2" ip daddr {OUTSIDE[client2]} drop
                iifname "eth2" oifname "eth1" accept
            }}
            chain forward_upnp {{ }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                jump prerouting_upnp
            }}
            chain prerouting_upnp {{ }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                jump postrouting_upnp
                oifname "eth1" masquerade
            }}
            chain postrouting_upnp {{ }}
        }}
        EOF
        cat > /etc/upnp.conf <<'EOF'
        ext_ifname=eth1
        listening_ip=eth2
        enable_upnp=yes
        enable_natpmp=no
        secure_mode=yes
        upnp_table_name=upnp
        upnp_nat_table_name=upnp
        upnp_forward_chain=forward_upnp
        upnp_nat_chain=prerouting_upnp
        upnp_nat_postrouting_chain=postrouting_upnp
        uuid=5d8c1f6e-3b0a-4c1e-9a57-2f0e6f6f7a11
        allow 1024-65535 192.168.2.0/24 1024-65535
        deny 0-65535 0.0.0.0/0 0-65535
        EOF
        """
    ),
    "nft -f /etc/nftables.conf",
    "systemd-run --unit=upnp miniupnpd -d -f /etc/upnp.conf >&2",
)


def start_torrents(node, *options):
    """A client for torrents, which lets its own machine alone tell it what to do."""
    words = " ".join(options)
    node.succeed(
        "mkdir -p /srv/torrents",
        "systemd-run --unit=torrents transmission-daemon -f --config-dir /root/torrents --download-dir /srv/torrents"
        f" --peerport {PORT} --no-auth --allowed 127.0.0.1 --no-dht --no-lpd --no-utp {words} >&2",
    )
    node.wait_for_open_port(9091)


tracker.succeed(
    "mkdir -p /srv/torrents; head -c 3M /dev/urandom > /srv/torrents/data",
    f"transmission-create -t {ANNOUNCE} -o /tmp/data.torrent /srv/torrents/data >&2",
    "rm -f /var/www/html/*; install -m 644 /tmp/data.torrent /var/www/html/data.torrent",
    # The tracker knows no other torrents than those of its list.
    "transmission-show /tmp/data.torrent | sed -n 's/^ *Hash: //p' > /etc/opentracker/whitelist.txt",
    "grep -xE '[0-9a-f]{40}' /etc/opentracker/whitelist.txt",
    "systemctl start --no-block nginx.service opentracker.service",
)
start_torrents(client1, "--portmap")
start_torrents(client2, "--no-portmap")
start_torrents(tracker, "--no-portmap")

# The test.
whole = tracker.succeed("sha256sum < /srv/torrents/data")


def fetch(node):
    node.succeed(f"curl --fail -so /tmp/data.torrent http://{OUTSIDE[tracker]}/data.torrent")
    node.succeed("transmission-remote --add /tmp/data.torrent >&2")


def wait_for_all_of_it(node):
    node.wait_until_succeeds("transmission-remote --torrent 1 --info | grep -F 'Percent Done: 100%'", timeout=300)
    node.wait_for_file("/srv/torrents/data")
    t.assertEqual(whole, node.succeed("sha256sum < /srv/torrents/data"))


def through_the_hole():
    """How many connections of client2's the router has taken to client1."""
    return int(re.search(r"new counter packets (\d+)", router.succeed("nft list chain inet upnp forward"))[1])


router.wait_for_unit("upnp")
tracker.wait_for_unit("nginx")
tracker.wait_for_unit("opentracker")
tracker.wait_for_open_port(6969)
tracker.succeed("transmission-remote --add /tmp/data.torrent >&2")
tracker.wait_until_succeeds("transmission-remote --torrent 1 --info | grep -F 'Percent Done: 100%'", timeout=120)

with subtest("client1 has a port opened"):
    router.wait_until_succeeds(f"nft list chain inet upnp prerouting_upnp | grep -F 'dnat ip to 192.168.2.1:{PORT}'", timeout=180)

with subtest("client1 gets the file from the tracker's machine"):
    fetch(client1)
    wait_for_all_of_it(client1)

with subtest("nothing else leads to client1"):
    client2.fail("ping -c 1 -W 2 192.168.2.1 >&2")
    client1.fail(f"ping -c 1 -W 2 {OUTSIDE[client2]} >&2")

with subtest("client2 gets it from client1 when the tracker's copy is gone"):
    tracker.stop_job("torrents")
    tracker.succeed("rm /srv/torrents/data")
    before = through_the_hole()
    fetch(client2)
    wait_for_all_of_it(client2)
    t.assertLess(before, through_the_hole())

with subtest("not without the router's rules"):
    router.succeed("nft flush chain inet upnp prerouting_upnp")
    client2.fail(f"timeout 5 nc -z -w 3 {OUTSIDE[router]} {PORT}")
