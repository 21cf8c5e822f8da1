# Logs that go to another machine, over UDP and TCP, and wait while that is away.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
machine1.succeed(
    dedent(
        """
        cat > /etc/rsyslog.d/test.conf <<'EOF'
        module(load="imtcp")
        module(load="imudp")
        ruleset(name="remote") {
            action(type="omfile" file="/var/log/remote.log")
        }
        input(type="imtcp" port="514" ruleset="remote")
        input(type="imudp" port="514" ruleset="remote")
        EOF
        """
    ),
    "systemctl start --no-block rsyslog.service",
)
machine2.succeed(
    dedent(
        """
        cat > /etc/rsyslog.d/test.conf <<'EOF'
        local3.* action(type="omfwd" target="machine1" port="514" protocol="udp")
        local4.* action(type="omfwd" target="machine1" port="514" protocol="tcp"
            action.resumeRetryCount="-1" action.resumeInterval="1" queue.type="LinkedList")
        EOF
        """
    ),
    "systemctl start --no-block rsyslog.service",
)

# The test.
machine1.wait_for_unit("rsyslog.service")
machine2.wait_for_unit("rsyslog.service")
machine1.wait_for_open_port(514)

with subtest("messages arrive over both protocols"):
    machine2.succeed("logger -p local3.info 'over udp'", "logger -p local4.info 'over tcp'", "logger -p local5.info secret")
    machine1.wait_until_succeeds("grep 'machine2 .*over udp' /var/log/remote.log", timeout=120)
    machine1.wait_until_succeeds("grep 'machine2 .*over tcp' /var/log/remote.log", timeout=120)
    machine1.fail("grep secret /var/log/remote.log")
    machine2.wait_until_succeeds("grep secret /var/log/syslog", timeout=60)

with subtest("messages wait for a receiver that is away"):
    # With its socket, through which the next message of the journal would start it again.
    machine1.systemctl("stop syslog.socket rsyslog.service")
    machine1.wait_for_closed_port(514)
    machine2.succeed("for i in $(seq 5); do logger -p local4.info waits-$i; done")
    machine1.systemctl("start rsyslog.service")
    machine1.wait_for_unit("rsyslog.service")
    # The first message after the end of a connection is lost in it: that is TCP.
    machine1.wait_until_succeeds("grep waits-5 /var/log/remote.log", timeout=120)
    machine1.succeed("test $(grep -c waits- /var/log/remote.log) -ge 4")
