# Three nodes of etcd that the network takes apart: who has the majority goes on, who has not stops, and all agree again after.
import json

nodes = {"node1": node1, "node2": node2, "node3": node3}
peers = {name: f"http://192.168.1.{number}" for number, name in enumerate(nodes, 1)}
cluster = ",".join(f"{name}={url}:2380" for name, url in peers.items())
# Elections would come and go by themselves where nodes wait for a slow host.
PACE = "--heartbeat-interval=500 --election-timeout=5000"

start_all()

# What NixOS modules would have configured.
for name, node in nodes.items():
    node.succeed(
        f"systemd-run --unit=member etcd --name {name} --data-dir /var/lib/etcd-data --initial-cluster {cluster}"
        f" --initial-advertise-peer-urls {peers[name]}:2380 --listen-peer-urls {peers[name]}:2380"
        " --advertise-client-urls http://127.0.0.1:2379 --listen-client-urls http://127.0.0.1:2379"
        f" {PACE} >&2"
    )


# The test.
def etcdctl(words, limit=60):
    return f"ETCDCTL_API=3 etcdctl --dial-timeout={limit}s --command-timeout={limit}s {words}"


def put(node, key, value):
    node.wait_until_succeeds(etcdctl(f"put {key} {value}", 10) + " >&2", timeout=180)


def refuses(node):
    """Neither takes a value nor says what is the latest."""
    node.fail(etcdctl("put lost never", 8) + " >&2")
    node.fail(etcdctl("get agreed", 8) + " >&2")


def wait_for_value(node, key, value):
    node.wait_until_succeeds(etcdctl(f"get --print-value-only {key}", 10) + f" | grep -x {value}", timeout=180)


def status(node):
    return json.loads(node.wait_until_succeeds(etcdctl("endpoint status -w json", 10), timeout=180))[0]["Status"]


def leads(node):
    said = status(node)
    return said["leader"] == said["header"]["member_id"]


for node in nodes.values():
    node.wait_for_unit("member")

with subtest("they agree"):
    put(node1, "agreed", "first")
    for node in nodes.values():
        wait_for_value(node, "agreed", "first")

leader = next(node for node in nodes.values() if leads(node))
others = [node for node in nodes.values() if node is not leader]

with subtest("the leader alone has no quorum, the others have one"):
    network.partition([leader], others)
    put(others[0], "agreed", "second")
    wait_for_value(others[1], "agreed", "second")
    refuses(leader)
    assert any(leads(node) for node in others)
    # What is on its own disk it still knows.
    t.assertEqual("first", leader.succeed(etcdctl("get --consistency=s --print-value-only agreed")).strip())

with subtest("the former leader follows when the network is whole"):
    network.heal()
    wait_for_value(leader, "agreed", "second")
    leader.fail(etcdctl("get --print-value-only lost") + " | grep never")

with subtest("nobody has a quorum where each is alone"):
    network.partition([node1], [node2], [node3])
    for node in nodes.values():
        refuses(node)

with subtest("and all have again"):
    vlan1.heal()
    put(node3, "agreed", "third")
    for node in nodes.values():
        wait_for_value(node, "agreed", "third")
    t.assertEqual(1, len({status(node)["leader"] for node in nodes.values()}))

with subtest("one that hears all but is not heard does not stop the others"):
    leader = next(node for node in nodes.values() if leads(node))
    others = [node for node in nodes.values() if node is not leader]
    for other in others:
        vlan1.cut(leader, other, both=False)
    put(others[1], "agreed", "fourth")
    network.heal()
    wait_for_value(leader, "agreed", "fourth")
