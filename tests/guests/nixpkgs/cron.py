# cron: a user's table, the system's table, and who may have one.

start_all()
machine.wait_for_unit("multi-user.target")

# What NixOS modules would have configured.
machine.succeed(
    "useradd -m -s /bin/bash alice",
    "useradd -m -s /bin/bash mallory",
    "echo mallory > /etc/cron.deny",
    "echo '* * * * * root date >> /root/system-job' > /etc/cron.d/test",
    # The next minute is near then.
    "date -s \"$(date '+%F %H:%M:50')\"",
    "systemctl start cron.service",
)

# The test.
machine.wait_for_unit("cron.service")

with subtest("tables"):
    machine.succeed("su alice -c \"echo '* * * * * id -un > own-job; echo said; exit 3' | crontab -\"")
    machine.succeed("crontab -u alice -l | grep own-job")
    machine.fail("su mallory -c \"echo '* * * * * true' | crontab -\"")

with subtest("jobs run as who they are for"):
    machine.wait_for_file("/root/system-job", timeout=180)
    machine.wait_until_succeeds("grep -x alice /home/alice/own-job", timeout=180)
    t.assertEqual("alice", machine.succeed("stat -c %U /home/alice/own-job").strip())
    machine.wait_until_succeeds("journalctl -u cron | grep -F '(alice) CMD'", timeout=60)

with subtest("a job that was taken away does not run again"):
    machine.succeed("crontab -u alice -r", "rm /home/alice/own-job")
    machine.fail("crontab -u alice -l")
    before = int(machine.succeed("wc -l < /root/system-job"))
    machine.succeed("date -s \"$(date '+%F %H:%M:57')\"")
    machine.wait_until_succeeds(f"test $(wc -l < /root/system-job) -gt {before}", timeout=180)
    machine.fail("test -e /home/alice/own-job")
