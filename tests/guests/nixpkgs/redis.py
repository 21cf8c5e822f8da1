# redis: its socket, its port, and what it keeps through a restart and a power cut.

start_all()
machine.wait_for_unit("multi-user.target")

# What NixOS modules would have configured.
machine.succeed(
    "printf 'unixsocket /run/redis/redis.sock\\nunixsocketperm 770\\nappendonly yes\\nappendfsync always\\n'"
    " >> /etc/redis/redis.conf",
    "useradd -m -G redis member",
    "useradd -m stranger",
    "ln -s /usr/lib/systemd/system/redis-server.service /etc/systemd/system/multi-user.target.wants/",
    "systemctl start --no-block redis-server.service",
)

# The test.
socket = "/run/redis/redis.sock"

machine.wait_for_unit("redis-server")
machine.wait_for_file(socket)
machine.wait_for_open_port(6379)

with subtest("it answers on its port and its socket"):
    machine.succeed("redis-cli ping | grep PONG")
    machine.succeed(f"redis-cli -s {socket} ping | grep PONG")

with subtest("the socket is for its group"):
    machine.succeed(f"su member -c 'redis-cli -s {socket} ping' | grep PONG")
    machine.fail(f"su stranger -c 'redis-cli -s {socket} ping' | grep PONG")

with subtest("what is published is received"):
    machine.succeed("timeout 60 redis-cli subscribe news > /tmp/news 2>&1 < /dev/null &")
    machine.wait_until_succeeds("test 1 = $(redis-cli publish news 'it snows')", timeout=60)
    machine.wait_until_succeeds("grep -x 'it snows' /tmp/news", timeout=60)

with subtest("a restart keeps what was written"):
    machine.succeed("redis-cli set colour white | grep OK", "redis-cli set gone soon px 1")
    machine.succeed("systemctl restart redis-server")
    machine.wait_for_unit("redis-server")
    machine.wait_until_succeeds("redis-cli ping | grep PONG", timeout=60)
    t.assertEqual("white", machine.succeed("redis-cli get colour").strip())
    t.assertEqual("", machine.succeed("redis-cli get gone").strip())

with subtest("and so does a power cut"):
    machine.succeed("for i in $(seq 50); do echo \"set key$i value$i\"; done | redis-cli | grep -c OK | grep -x 50")
    machine.crash()
    machine.wait_for_unit("redis-server")
    machine.wait_until_succeeds("redis-cli ping | grep PONG", timeout=60)
    t.assertEqual("51", machine.succeed("redis-cli dbsize").strip())
    t.assertEqual("value50", machine.succeed("redis-cli get key50").strip())
