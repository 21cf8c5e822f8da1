//! Test scripts of the kind that nixpkgs has: real services, several machines, written against the driver's names alone.
//!
//! All guests have the same packages, so there is one root image; nothing in it starts by itself.

use super::{CASE, Case};

/// The servers and tools of all scripts, and of tests that need some of them.
pub(super) const PACKAGES: &[&str] = &[
    "bind9-host",
    "cron",
    "curl",
    "dhcpcd-base",
    "dnsmasq",
    "e2fsprogs",
    "keepalived",
    "kexec-tools",
    "libpam-systemd",
    "mariadb-server",
    "nfs-common",
    "nfs-kernel-server",
    "nftables",
    "nginx",
    "openssh-client",
    "openssh-server",
    "openssl",
    "radvd",
    "redis-server",
    "rsyslog",
    "sudo",
    "tcpdump",
    "vsftpd",
    "wireguard-tools",
];

/// What two scripts have in the place of that: file sharing, and a cluster.
const CLUSTERS: &[&str] = &[
    "curl",
    "etcd-client",
    "etcd-server",
    "miniupnpd-nftables",
    "nftables",
    "nginx",
    "opentracker",
    "transmission-cli",
    "transmission-daemon",
];

/// What most of them have: Debian's cloud kernel, which has every module that they need.
const SCRIPT: Case = Case { with: PACKAGES, ..CASE };

pub(super) const CASES: &[Case] = &[
    // The longest first, so that no lab is idle at the end.
    Case {
        name: "mysql-replication",
        script: "tests/guests/nixpkgs/mysql-replication.py",
        machines: &["primary", "secondary1", "secondary2"],
        memory: "384M",
        keeps_root: true,
        limit: 2400,
        said: &["subtest: the primary's power is cut"],
        ..SCRIPT
    },
    Case {
        name: "bittorrent",
        script: "tests/guests/nixpkgs/bittorrent.py",
        with: CLUSTERS,
        machines: &["client1", "client2", "router", "tracker"],
        vlans: &[("client1", &[2]), ("router", &[1, 2])],
        limit: 1800,
        said: &["subtest: not without the router's rules"],
        ..SCRIPT
    },
    Case {
        name: "etcd-cluster",
        script: "tests/guests/nixpkgs/etcd-cluster.py",
        with: CLUSTERS,
        machines: &["node1", "node2", "node3"],
        memory: "384M",
        limit: 1800,
        said: &[
            "network: vlan1.partition([\"node1\"], [\"node2\"], [\"node3\"])",
            "subtest: one that hears all but is not heard",
        ],
        ..SCRIPT
    },
    Case {
        name: "nfs",
        script: "tests/guests/nixpkgs/nfs.py",
        machines: &["client1", "client2", "server"],
        data_disk: true,
        keeps_root: true,
        limit: 1800,
        ..SCRIPT
    },
    Case {
        name: "nat",
        script: "tests/guests/nixpkgs/nat.py",
        machines: &["client", "router", "server"],
        vlans: &[("router", &[1, 2]), ("server", &[2])],
        ..SCRIPT
    },
    Case {
        name: "keepalived",
        script: "tests/guests/nixpkgs/keepalived.py",
        machines: &["node1", "node2"],
        keeps_root: true,
        ..SCRIPT
    },
    Case {
        name: "bonding",
        script: "tests/guests/nixpkgs/bonding.py",
        machines: &["client1", "client2"],
        vlans: &[("client1", &[1, 2]), ("client2", &[1, 2])],
        ..SCRIPT
    },
    Case {
        name: "dnsmasq",
        script: "tests/guests/nixpkgs/dnsmasq.py",
        machines: &["client", "router"],
        ..SCRIPT
    },
    Case {
        name: "firewall",
        script: "tests/guests/nixpkgs/firewall.py",
        machines: &["attacker", "walled"],
        ..SCRIPT
    },
    Case { name: "ipv6", script: "tests/guests/nixpkgs/ipv6.py", machines: &["client", "router"], ..SCRIPT },
    Case {
        name: "nginx",
        script: "tests/guests/nixpkgs/nginx.py",
        machines: &["client", "server"],
        ..SCRIPT
    },
    Case {
        name: "openssh",
        script: "tests/guests/nixpkgs/openssh.py",
        machines: &["client", "server"],
        ..SCRIPT
    },
    Case {
        name: "rsyslog",
        script: "tests/guests/nixpkgs/rsyslog.py",
        machines: &["machine1", "machine2"],
        ..SCRIPT
    },
    Case {
        name: "vlan",
        script: "tests/guests/nixpkgs/vlan.py",
        machines: &["machine1", "machine2"],
        ..SCRIPT
    },
    Case {
        name: "wireguard",
        script: "tests/guests/nixpkgs/wireguard.py",
        machines: &["peer0", "peer1"],
        ..SCRIPT
    },
    Case { name: "cron", script: "tests/guests/nixpkgs/cron.py", ..SCRIPT },
    Case { name: "login", script: "tests/guests/nixpkgs/login.py", ..SCRIPT },
    Case { name: "redis", script: "tests/guests/nixpkgs/redis.py", keeps_root: true, ..SCRIPT },
    Case { name: "systemd", script: "tests/guests/nixpkgs/systemd.py", keeps_root: true, ..SCRIPT },
];
