# systemd: units, timers, restarts, limits, a user's own manager, a power cut.
from textwrap import dedent

start_all()
machine.wait_for_unit("multi-user.target")

# What NixOS modules would have configured.
machine.succeed("useradd -m -s /bin/bash alice")
machine.succeed(
    dedent(
        """
        cd /etc/systemd/system
        cat > greeter.service <<'EOF'
        [Service]
        Type=oneshot
        ExecStart=/bin/sh -c 'echo once >> /tmp/greetings'
        EOF
        cat > greeter.timer <<'EOF'
        [Timer]
        OnActiveSec=1
        OnUnitActiveSec=2
        AccuracySec=100ms
        EOF
        cat > fragile.service <<'EOF'
        [Service]
        ExecStart=/bin/sleep infinity
        Restart=on-failure
        RestartSec=200ms
        EOF
        cat > slow.service <<'EOF'
        [Service]
        Type=notify
        NotifyAccess=all
        ExecStart=/bin/sh -c 'until test -e /tmp/go; do sleep 0.1; done; systemd-notify --ready; exec sleep infinity'
        EOF
        cat > broken.service <<'EOF'
        [Service]
        Type=oneshot
        ExecStart=/bin/false
        EOF
        cat > shut-in.service <<'EOF'
        [Service]
        DynamicUser=yes
        StateDirectory=shut-in
        PrivateNetwork=yes
        MemoryMax=32M
        ExecStart=/bin/sh -c 'touch /var/lib/shut-in/mine; exec sleep infinity'
        EOF
        mkdir -p /home/alice/.config/systemd/user
        cat > /home/alice/.config/systemd/user/own.service <<'EOF'
        [Service]
        ExecStart=/bin/sleep infinity
        EOF
        chown -R alice: /home/alice/.config
        systemctl daemon-reload
        """
    )
)

# The test.
with subtest("a timer starts its unit again and again"):
    machine.fail("test -e /tmp/greetings")
    machine.succeed("systemctl start greeter.timer")
    machine.wait_for_unit("greeter.timer")
    machine.wait_until_succeeds("test $(wc -l < /tmp/greetings) -ge 3", timeout=60)
    machine.succeed("systemctl list-timers | grep greeter.service")
    machine.stop_job("greeter.timer")
    t.assertEqual("inactive", machine.get_unit_property("greeter.timer", "ActiveState"))

with subtest("a unit that dies is started again"):
    status, _ = machine.start_job("fragile.service")
    t.assertEqual(0, status)
    machine.wait_for_unit("fragile.service")
    before = machine.get_unit_info("fragile.service")["MainPID"]
    machine.succeed(f"kill -SEGV {before}")
    machine.wait_until_succeeds("test $(systemctl show -P NRestarts fragile) = 1", timeout=60)
    machine.wait_for_unit("fragile.service")
    assert machine.get_unit_info("fragile.service")["MainPID"] not in ("0", before)
    machine.stop_job("fragile.service")
    machine.require_unit_state("fragile.service", "inactive")

with subtest("a unit counts as active when it says so"):
    machine.succeed("systemctl start --no-block slow.service")
    machine.wait_until_succeeds("systemctl show -P ActiveState slow.service | grep -x activating", timeout=60)
    machine.succeed("(sleep 1; touch /tmp/go) >&2 &")
    machine.wait_for_unit("slow.service", timeout=60)
    machine.require_unit_state("slow.service")

with subtest("waiting for a unit that fails ends at once"):
    machine.execute("systemctl start broken.service")
    with t.assertRaises(Exception) as caught:
        machine.wait_for_unit("broken.service")
    assert "broken.service" in str(caught.exception) and "failed" in str(caught.exception), caught.exception
    assert "broken.service" in machine.succeed("systemctl --failed --no-legend")

with subtest("a unit is shut in"):
    machine.succeed("systemctl start shut-in.service")
    machine.wait_for_file("/var/lib/shut-in/mine", timeout=60)
    pid = machine.get_unit_property("shut-in.service", "MainPID")
    assert machine.succeed(f"stat -c %u /proc/{pid}").strip() != "0"
    cards = machine.succeed(f"nsenter -t {pid} -n ip -brief link").split()
    assert "lo" in cards and "eth1" not in cards, cards
    t.assertEqual("33554432", machine.succeed("cat /sys/fs/cgroup/system.slice/shut-in.service/memory.max").strip())

with subtest("a user's own manager"):
    machine.succeed("loginctl enable-linger alice")
    machine.wait_for_unit("user@1000.service", timeout=120)
    machine.wait_for_unit("default.target", "alice", timeout=60)
    status, _ = machine.systemctl("start own.service", "alice")
    t.assertEqual(0, status)
    machine.wait_for_unit("own.service", "alice", timeout=60)
    t.assertEqual("active", machine.get_unit_property("own.service", "ActiveState", "alice"))
    machine.succeed("pgrep -u alice -x sleep")
    machine.stop_job("own.service", "alice")
    machine.wait_until_fails("pgrep -u alice -x sleep", timeout=60)

with subtest("the journal has what units said"):
    machine.succeed("systemd-run --wait --unit=speaker sh -c 'echo spoken words; echo more >&2'")
    machine.wait_until_succeeds("journalctl -u speaker -o cat | grep -x 'spoken words'", timeout=60)
    machine.wait_for_console_text("spoken words", timeout=60)

with subtest("a power cut leaves nothing but what is on disks"):
    before = machine.succeed("cat /proc/sys/kernel/random/boot_id")
    machine.succeed("touch /run/volatile", "echo kept > /root/kept; sync")
    machine.crash()
    machine.start()
    machine.wait_for_unit("multi-user.target")
    assert before != machine.succeed("cat /proc/sys/kernel/random/boot_id")
    machine.succeed("grep -x kept /root/kept")
    machine.fail("test -e /run/volatile")
