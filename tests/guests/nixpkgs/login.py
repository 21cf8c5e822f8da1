# Users and logins through the serial console.

start_all()
machine.wait_for_unit("multi-user.target")

# What NixOS modules would have configured. A getty on the serial console is off on test machines, there and here.
machine.succeed(
    "useradd -m -s /bin/bash alice",
    "useradd -m -s /bin/bash -G sudo bob",
    "printf '%s\\n' alice:foobar bob:hunter2 | chpasswd",
    "systemctl unmask --runtime serial-getty@ttyS0.service",
    "rm -f /etc/systemd/system/serial-getty@ttyS0.service",
    "systemctl daemon-reload",
)

# The test.
machine.fail("pgrep -f 'agetty.*ttyS0'")
machine.systemctl("start --no-block serial-getty@ttyS0.service")
machine.wait_until_succeeds("pgrep -f 'agetty.*ttyS0'", timeout=60)


def log_in(user, password):
    machine.wait_for_console_text("machine login: ", timeout=120)
    machine.send_console(f"{user}\n")
    machine.wait_for_console_text("Password: ", timeout=60)
    machine.send_console(f"{password}\n")


with subtest("a wrong password is refused"):
    log_in("alice", "barfoo")
    machine.wait_for_console_text("Login incorrect", timeout=60)
    machine.fail("pgrep -u alice bash")

with subtest("a user logs in"):
    log_in("alice", "foobar")
    machine.wait_until_succeeds("pgrep -u alice bash", timeout=120)
    machine.send_console("touch done; tty > where\n")
    machine.wait_for_file("/home/alice/where", timeout=60)
    machine.succeed("test $(stat -c %U /home/alice/done) = alice")
    machine.wait_until_succeeds("grep -x /dev/ttyS0 /home/alice/where", timeout=60)
    assert "alice" in machine.succeed("loginctl --no-legend list-sessions")
    machine.succeed("who | grep '^alice .*ttyS0'")

with subtest("what a user types is echoed and answered"):
    machine.send_console("echo $((6 * 7))-$USER\n")
    machine.wait_for_console_text("42-alice", timeout=60)
    assert "42-alice" in machine.get_console_log()

with subtest("a user may not do what root may"):
    machine.send_console("cat /etc/shadow > stolen || echo refused-$USER\n")
    machine.wait_for_console_text("refused-alice", timeout=60)
    machine.succeed("test ! -s /home/alice/stolen")

with subtest("a user becomes another one"):
    machine.send_console("su -l bob\n")
    machine.wait_for_console_text("Password: ", timeout=60)
    machine.send_console("hunter2\n")
    machine.wait_until_succeeds("pgrep -u bob bash", timeout=120)
    machine.send_console("sudo -S touch /root/by-bob\n")
    machine.wait_for_console_text("password for bob", timeout=60)
    machine.send_console("hunter2\n")
    machine.wait_for_file("/root/by-bob", timeout=60)
    machine.succeed("test $(stat -c %u /root/by-bob) = 0")
    machine.send_console("exit\n")
    machine.wait_until_fails("pgrep -u bob bash", timeout=60)

with subtest("a user logs out"):
    machine.send_console("exit\n")
    machine.wait_until_fails("pgrep -u alice bash", timeout=60)

with subtest("root logs in without a password, as on test machines"):
    machine.wait_for_console_text("machine login: ", timeout=120)
    machine.send_console("root\n")
    machine.wait_until_succeeds("pgrep -t ttyS0 bash", timeout=120)
    machine.send_console("id -u > /tmp/uid\n")
    machine.wait_until_succeeds("grep -x 0 /tmp/uid", timeout=60)
    machine.send_console("exit\n")
