# Waits: how late they end, what they say when they fail, whom they hold up, and what a terminal shows.
import re
import threading
import time

start_all()
machine.wait_for_unit("multi-user.target")


def failed(wait, *said):
    try:
        wait()
    except Exception as error:
        for text in said:
            assert text in str(error), error
    else:
        raise SystemExit(f"a wait for {said[0]} did not fail")


def now():
    return float(machine.succeed("echo $EPOCHREALTIME"))


def late(kind, fact, wait):
    # The guest stamps the fact, and a command after the wait: a whole round trip is in the difference.
    before = now()
    trip = now() - before
    machine.succeed("rm -f /tmp/stamp", f"(sleep 2; {fact}; echo $EPOCHREALTIME >/tmp/stamp) >&2 &")
    wait()
    after = now()
    machine.wait_for_file("/tmp/stamp", timeout=60)
    late = after - float(machine.succeed("cat /tmp/stamp")) - trip
    print(f"late: {kind} {late * 1000:.0f} ms, round trip {trip * 1000:.0f} ms", flush=True)


with subtest("waits end soon"):
    late("file", "touch '/tmp/a b'", lambda: machine.wait_for_file("/tmp/a*b", timeout=60))
    late("port", "nc -lk 8080 & until nc -z localhost 8080; do :; done", lambda: machine.wait_for_open_port(8080, timeout=60))
    late("closed port", "kill $(pgrep -x nc)", lambda: machine.wait_for_closed_port(8080, timeout=60))
    late("socket", "nc -lkU /tmp/socket & until nc -zU /tmp/socket; do :; done", lambda: machine.wait_for_open_unix_socket("/tmp/socket", timeout=60))
    # Starting until somebody writes into the pipe. The stamp is of that moment, so systemd's own work is in the figure.
    machine.succeed("mkfifo /tmp/go", "systemd-run --no-block --unit=late --service-type=oneshot --remain-after-exit cat /tmp/go")
    late("unit", "echo >/tmp/go", lambda: machine.wait_for_unit("late.service", timeout=60))

with subtest("failures tell what was there instead"):
    failed(lambda: machine.wait_for_file("/run/nothing/of/the/kind", timeout=1), "did not appear within 1 s (looked ", "the nearest folder is /run:", "systemd")
    failed(lambda: machine.wait_for_open_port(81, timeout=1), "did not open within 1 s", "listening TCP sockets:")
    failed(lambda: machine.wait_for_open_unix_socket("/tmp/none", timeout=1), "did not open within 1 s", "listening /run/systemd/private")
    failed(lambda: machine.wait_until_succeeds("echo so far; exit 7", timeout=1), "within 1 s (last exit code 7, looked ", "so far")
    machine.succeed("systemd-run --no-block --unit=slow --service-type=notify sleep infinity")
    failed(lambda: machine.wait_for_unit("slow.service", timeout=1), "did not become active within 1 s", 'it is "activating" (substate start)', "slow.service")
    # Jobs of other units count as well.
    machine.succeed("systemctl stop slow.service")
    failed(lambda: machine.wait_for_unit("none.service", timeout=60), "there are no pending jobs", "load state not-found")

with subtest("lost packets do not eat the time"):
    # A neighbour that nobody is: packets to it are neither answered nor refused.
    machine.succeed("ip link add gone type dummy", "ip address add 10.99.0.1/24 dev gone", "ip link set gone up")
    began = time.monotonic()
    failed(lambda: machine.wait_for_open_port(80, "10.99.0.2", timeout=5), "did not open within 5 s (it gave no answer at all")
    assert time.monotonic() - began < 15

with subtest("other threads have the shell meanwhile"):
    waiting = threading.Thread(target=lambda: machine.wait_for_file("/tmp/at-last", timeout=60))
    waiting.start()
    machine.succeed("true", "true", "touch /tmp/at-last")
    waiting.join()

with subtest("commands that hang"):
    assert machine.execute("cat", timeout=2)[0] == 124
    failed(lambda: machine.succeed("sleep infinity", timeout=2), "exit code 124: not done within 2 s")
    assert machine.succeed("echo next") == "next\n"

with subtest("virtual terminals"):
    machine.succeed("printf 'Hello from the terminal\\n' >/dev/tty1")
    machine.wait_until_tty_matches("1", r"Hello\s+from", timeout=60)
    assert re.search("Hello from the terminal", machine.get_tty_text(1))
    machine.dump_tty_contents("1")
    machine.wait_for_console_text("Hello from the terminal", timeout=60)
    failed(lambda: machine.wait_until_tty_matches("1", "never", timeout=1), "`never` did not appear on tty 1 within 1 s", "Hello from")
    failed(lambda: machine.get_tty_text("77"), "no text of virtual terminal `77`")
    failed(lambda: machine.wait_for_x(timeout=1), "the X11 server did not come up within 1 s")

machine.shutdown()
