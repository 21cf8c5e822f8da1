# Files over NFS: one server, two clients, locks, and a server that comes back.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
server.succeed(
    "mkdir -p /data",
    "mkfs.ext4 -q /dev/vdb",
    "echo '/dev/vdb /data ext4 defaults 0 0' >> /etc/fstab",
    "systemctl daemon-reload",
    "mount /data",
    "chmod 777 /data",
    "echo '/data 192.168.1.0/24(rw,no_root_squash,no_subtree_check,fsid=0)' > /etc/exports",
    "printf '[nfsd]\\ngrace-time=10\\nlease-time=10\\nvers3=n\\n' > /etc/nfs.conf",
    "systemctl enable nfs-server.service 2>/dev/null",
    "systemctl start nfs-server.service",
)
for client in (client1, client2):
    client.succeed(
        dedent(
            """
            cat > /etc/systemd/system/data.mount <<'EOF'
            [Unit]
            After=network-setup.service
            [Mount]
            What=server:/
            Where=/data
            Type=nfs4
            Options=vers=4.2
            EOF
            """
        ),
        "systemctl daemon-reload",
        "systemctl start --no-block data.mount",
    )

# The test.
server.wait_for_unit("nfs-server")
server.wait_for_open_port(2049)
client1.wait_for_unit("data.mount")
client2.wait_for_unit("data.mount")

with subtest("what one client writes the other reads"):
    client1.succeed("echo bla > /data/foo")
    server.succeed("test -e /data/foo")
    client2.wait_for_file("/data/foo", timeout=60)
    t.assertEqual("bla\n", client2.succeed("cat /data/foo"))
    client1.succeed("head -c 5000000 /dev/urandom > /data/large")
    t.assertEqual(client1.succeed("sha256sum < /data/large"), server.succeed("sha256sum < /data/large"))
    t.assertEqual(client1.succeed("sha256sum < /data/large"), client2.succeed("sha256sum < /data/large"))

with subtest("a lock keeps the other client out"):
    client2.succeed("touch /data/lock")
    client2.succeed("flock /data/lock sleep infinity >&2 &")
    client1.wait_until_fails("flock -n -s /data/lock true", timeout=60)

with subtest("a lock goes with who held it"):
    client2.succeed("pkill -x sleep")
    client1.wait_until_succeeds("flock -n -s /data/lock true", timeout=60)

with subtest("clients live on when the server was away"):
    server.shutdown()
    server.start()
    # Does not answer before the server does.
    client1.succeed("ls /data/foo", "echo again > /data/bar", timeout=600)
    server.wait_for_unit("nfs-server")
    client2.wait_until_succeeds("grep -x again /data/bar", timeout=120)

with subtest("a client goes in good order"):
    client1.succeed("umount /data")
    client1.fail("test -e /data/foo")
    client2.succeed("test -e /data/foo")
