# ssh between machines: keys, forced refusal, files, ports.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
server.succeed(
    dedent(
        """
        cat > /etc/ssh/sshd_config.d/test.conf <<'EOF'
        Port 22
        Port 2222
        PasswordAuthentication no
        PermitRootLogin prohibit-password
        AllowUsers root alice
        EOF
        """
    ),
    "useradd -m -s /bin/bash alice",
    "useradd -m -s /bin/bash carol",
    "systemctl start --no-block ssh.service",
)
client.succeed("mkdir -m 700 -p /root/.ssh")

# The test.
options = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"

server.wait_for_unit("ssh", timeout=120)
server.wait_for_open_port(22)
client.wait_for_unit("network.target")

with subtest("nobody comes in without a key"):
    client.fail(f"ssh {options} -o BatchMode=yes server true", timeout=60)

with subtest("manual-authkey"):
    client.succeed('ssh-keygen -t ed25519 -f /root/.ssh/id_ed25519 -N ""')
    public_key = client.succeed("ssh-keygen -y -f /root/.ssh/id_ed25519").strip()
    for user, home in [("root", "/root"), ("alice", "/home/alice"), ("carol", "/home/carol")]:
        server.succeed(f"install -d -m 700 -o {user} -g {user} {home}/.ssh")
        server.succeed("echo '{}' > {}/.ssh/authorized_keys".format(public_key, home))
        server.succeed(f"chmod 600 {home}/.ssh/authorized_keys; chown {user}: {home}/.ssh/authorized_keys")
    client.succeed(f"ssh {options} server 'echo hello world' >&2", timeout=60)
    t.assertEqual("server\n", client.succeed(f"ssh {options} server hostname", timeout=60))
    t.assertEqual("alice\n", client.succeed(f"ssh {options} alice@server id -un", timeout=60))
    client.succeed(f"ssh {options} -6 -p 2222 server true", timeout=60)

with subtest("a status and both outputs come back"):
    status, output = client.execute(f"ssh {options} alice@server 'echo out; echo err >&2; exit 7' 2>/tmp/err")
    assert (status, output) == (7, "out\n"), (status, output)
    client.succeed("grep -x err /tmp/err")

with subtest("users that are not allowed stay out"):
    client.fail(f"ssh {options} -o BatchMode=yes carol@server true", timeout=60)
    server.wait_until_succeeds("journalctl -u ssh | grep 'User carol from .* not allowed'", timeout=60)

with subtest("files"):
    client.succeed("head -c 3000000 /dev/urandom > /tmp/data")
    wanted = client.succeed("sha256sum < /tmp/data")
    client.succeed(f"scp {options} /tmp/data alice@server:sent", timeout=120)
    t.assertEqual(wanted, server.succeed("sha256sum < /home/alice/sent"))
    t.assertEqual("alice", server.succeed("stat -c %U /home/alice/sent").strip())
    client.succeed(f"ssh {options} alice@server 'cat > piped' < /tmp/data", timeout=120)
    t.assertEqual(wanted, server.succeed("sha256sum < /home/alice/piped"))

with subtest("a forwarded port"):
    server.succeed("systemd-run --unit=answer sh -c 'while true; do echo answer | nc -N -l 127.0.0.1 8000; done'")
    server.wait_until_succeeds("ss -Hltn | grep -F 127.0.0.1:8000", timeout=60)
    client.fail("nc -z server 8000")
    client.succeed(f"ssh {options} -f -N -L 9000:127.0.0.1:8000 server >&2", timeout=60)
    client.wait_for_open_port(9000)
    client.wait_until_succeeds("nc -d 127.0.0.1 9000 | grep -x answer", timeout=60)
