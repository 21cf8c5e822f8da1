# MariaDB: one primary, two secondaries. Secondaries that were away, one through a power cut, catch up; the primary's
# power is cut, too, and what it had confirmed is there.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
for number, node in enumerate([primary, secondary1, secondary2], 1):
    node.succeed(
        dedent(
            f"""
            cat > /etc/mysql/mariadb.conf.d/99-test.cnf <<'EOF'
            [mysqld]
            datadir = /var/lib/db
            bind-address = 0.0.0.0
            server-id = {number}
            log-bin = binlog
            sync-binlog = 1
            sync-master-info = 1
            sync-relay-log = 1
            sync-relay-log-info = 1
            slave-net-timeout = 10
            innodb-buffer-pool-size = 16M
            skip-name-resolve
            EOF
            """
        ),
        # Most of it is an empty log.
        "cp -a --sparse=always /var/lib/mysql /var/lib/db",
        "ln -sf /bin/true /etc/mysql/debian-start",
        "systemctl enable mariadb.service 2>/dev/null",
        "systemctl start --no-block mariadb.service",
    )


def sql(text):
    return f"mysql -u root -N -e \"{text}\""


def rows(count):
    return f"test {count} = $({sql('SELECT COUNT(*) FROM testdb.tests')})"


def insert(first, last):
    primary.succeed(
        f"(echo 'USE testdb;'; for id in $(seq {first} {last}); do echo \"INSERT INTO tests VALUES ($id, 'row $id');\"; done)"
        " | mysql -u root"
    )


# The test.
primary.wait_for_unit("mariadb")
primary.wait_for_open_port(3306)
primary.succeed(
    sql("CREATE DATABASE testdb; CREATE TABLE testdb.tests (id INT PRIMARY KEY, text VARCHAR(20)) ENGINE=InnoDB"),
    sql("CREATE USER repl@'192.168.1.%' IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO repl@'192.168.1.%'"),
)
insert(1, 10)

with subtest("secondaries follow"):
    for node in [secondary1, secondary2]:
        node.wait_for_unit("mariadb")
        node.succeed(
            sql(
                "CHANGE MASTER TO MASTER_HOST='primary', MASTER_USER='repl', MASTER_PASSWORD='secret',"
                " MASTER_CONNECT_RETRY=2, MASTER_USE_GTID=slave_pos; START SLAVE"
            )
        )
        node.wait_until_succeeds(rows(10), timeout=120)
    insert(11, 20)
    for node in [secondary1, secondary2]:
        node.wait_until_succeeds(rows(20), timeout=120)
        assert "row 20" in node.succeed(sql("SELECT text FROM testdb.tests WHERE id = 20"))

with subtest("one secondary stops and one loses its power while data is written"):
    secondary1.shutdown()
    insert(21, 40)
    secondary2.wait_until_succeeds(rows(40), timeout=120)
    secondary2.crash()
    insert(41, 60)
    primary.succeed(rows(60))

with subtest("both catch up after their start"):
    secondary1.start()
    secondary2.start()
    for node in [secondary1, secondary2]:
        node.wait_for_unit("mariadb")
        node.wait_until_succeeds(rows(60), timeout=300)
        status = node.succeed("mysql -u root -e 'SHOW SLAVE STATUS\\G'")
        assert "Slave_IO_Running: Yes" in status and "Slave_SQL_Running: Yes" in status, status
        t.assertIn("Last_SQL_Error: \n", status)

with subtest("the primary's power is cut"):
    insert(61, 70)
    primary.crash()
    primary.start()
    primary.wait_for_unit("mariadb")
    primary.succeed(rows(70))
    assert "OK" in primary.succeed("mysqlcheck -u root testdb tests")
    insert(71, 80)
    for node in [secondary1, secondary2]:
        node.wait_until_succeeds(rows(80), timeout=300)
    checksum = primary.succeed(sql("CHECKSUM TABLE testdb.tests"))
    for node in [secondary1, secondary2]:
        t.assertEqual(checksum, node.succeed(sql("CHECKSUM TABLE testdb.tests")))
