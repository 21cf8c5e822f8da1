# An address that moves: node1 has it, and node2 when node1's cable is pulled or its power is cut.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
for node, priority in [(node1, 200), (node2, 100)]:
    node.succeed(
        dedent(
            f"""
            cat > /etc/keepalived/keepalived.conf <<'EOF'
            vrrp_instance test {{
                interface eth1
                state BACKUP
                priority {priority}
                virtual_router_id 1
                advert_int 1
                virtual_ipaddress {{
                    192.168.1.200/24
                }}
            }}
            EOF
            """
        ),
        "ln -s /usr/lib/systemd/system/keepalived.service /etc/systemd/system/multi-user.target.wants/",
        "systemctl start --no-block keepalived.service",
    )

# The test.
address = "192.168.1.200"


def wait_for_holder(holder):
    holder.wait_until_succeeds(f"ip -o address show dev eth1 | grep -F {address}/", timeout=120)


def wait_until_given_up(node):
    node.wait_until_fails(f"ip -o address show dev eth1 | grep -F {address}/", timeout=120)


for node in [node1, node2]:
    node.wait_for_unit("keepalived")

with subtest("the node with the higher priority has the address"):
    wait_for_holder(node1)
    wait_until_given_up(node2)
    node2.wait_until_succeeds(f"ping -c 1 -W 1 {address}", timeout=60)
    t.assertIn("52:54:00:12:01:01", node2.succeed(f"ip neighbour show {address}"))

with subtest("a pulled cable moves it"):
    node1.block()
    wait_for_holder(node2)
    wait_until_given_up(node1)
    node2.succeed(f"ping -c 1 {address}")

with subtest("and it comes back with the cable"):
    node1.unblock()
    wait_for_holder(node1)
    wait_until_given_up(node2)
    node2.wait_until_succeeds(f"ping -c 1 -W 1 {address}", timeout=60)

with subtest("a service that stops hands it over"):
    node1.systemctl("stop keepalived")
    wait_for_holder(node2)
    node1.wait_until_succeeds(f"ping -c 1 -W 1 {address}", timeout=60)
    t.assertIn("52:54:00:12:01:02", node1.succeed(f"ip neighbour show {address}"))
    node1.systemctl("start keepalived")
    wait_for_holder(node1)
    wait_until_given_up(node2)

with subtest("a power cut moves it, a start brings it back"):
    node1.crash()
    wait_for_holder(node2)
    node1.start()
    node1.wait_for_unit("keepalived")
    wait_for_holder(node1)
    wait_until_given_up(node2)
