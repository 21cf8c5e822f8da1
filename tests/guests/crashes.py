# Power cuts in the middle of writes, fifty in a row: a database and files on ext4 in a qcow2 image, and a root on ext4, of which
# everything must be there that was confirmed.
import random
import subprocess
import time
from pathlib import Path

CUTS = 50
CONFIRMED_EACH = 10

folder = Path(driver.out_dir)
choice = random.Random(1)

machine.start()
machine.wait_for_unit("multi-user.target")
machine.succeed(
    "mkfs.ext4 -q /dev/disk/by-id/virtio-data && mkdir -p /srv/data && mount /dev/disk/by-id/virtio-data /srv/data",
    "mkdir /srv/data/files && cp -a --sparse=always /var/lib/mysql /srv/data/db && ln -sf /bin/true /etc/mysql/debian-start",
    "cat >/etc/mysql/mariadb.conf.d/99-test.cnf <<'END'\n"
    "[mysqld]\n"
    "datadir = /srv/data/db\n"
    "log-bin = binlog\n"
    "sync-binlog = 1\n"
    "innodb-buffer-pool-size = 16M\n"
    "skip-name-resolve\n"
    "END",
    "systemctl start mariadb.service",
)


def sql(text):
    return machine.succeed(f'mysql -u root -N -e "{text}"').split()


def insert(first, last):
    """A shell command that inserts rows one by one, each a transaction of its own."""
    row = "INSERT INTO tests.tests VALUES ($id, REPEAT('row $id ', 20)); SELECT $id;"
    return f'seq {first} {last} | while read -r id; do echo "{row}"; done | mysql -u root -N --unbuffered >/run/written'


def check(confirmed, cut):
    """What is there after a cut: all that was confirmed, and of the rest as much as came first. The number of rows."""
    rows, last = map(int, sql("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM tests.tests"))
    assert rows == last >= confirmed, f"cut {cut}: {rows} rows up to {last}, {confirmed} were confirmed"
    wrong = sql("SELECT COUNT(*) FROM tests.tests WHERE text <> REPEAT(CONCAT('row ', id, ' '), 20)")
    assert wrong == ["0"], f"cut {cut}: {wrong} rows are not what was written"
    assert "OK" in machine.succeed("mysqlcheck -u root tests tests")
    names = machine.succeed("cd /srv/data/files && sha256sum --quiet -c sum-* && ls sum-* | wc -l; cat /root/cuts")
    assert names.split() == [str(cut), *map(str, range(cut))], f"cut {cut}: {names}"
    return rows


sql("CREATE DATABASE tests; CREATE TABLE tests.tests (id INT PRIMARY KEY, text VARCHAR(400), KEY (text)) ENGINE=InnoDB")
# Nobody has confirmed the copies above yet: a cut within the 30 seconds until Linux writes them by itself would leave some empty.
machine.succeed("sync")
rows = 0
with subtest(f"{CUTS} power cuts in the middle of writes"):
    for cut in range(CUTS):
        confirmed = rows + CONFIRMED_EACH
        machine.succeed(
            insert(rows + 1, confirmed),
            f"cd /srv/data/files && head -c 100000 /dev/urandom >kept-{cut} && sha256sum kept-{cut} >sum-{cut}",
            f"sync /srv/data/files/* /srv/data/files; echo {cut} >>/root/cuts; sync /root/cuts /root",
            f"({insert(confirmed + 1, 1_000_000)}) >&2 &",
            "(while :; do for n in 1 2 3 4; do head -c 150000 /dev/urandom >/srv/data/files/busy-$n; sync -d /srv/data/files/busy-$n; "
            "done; rm /srv/data/files/busy-*; done) >&2 &",
        )
        machine.wait_until_succeeds(f"test $(tail -n 1 /run/written) -gt {confirmed} && test -e /srv/data/files/busy-2")
        time.sleep(choice.uniform(0, 0.5))
        machine.crash()
        machine.start()
        machine.wait_for_unit("multi-user.target")
        machine.succeed("mount /dev/disk/by-id/virtio-data /srv/data", "systemctl start mariadb.service")
        rows = check(confirmed, cut + 1)
        machine.fail("dmesg | grep -i 'ext4-fs error'")
        assert rows > confirmed, "the cut was not in the middle of writes"
        machine.log(f"cut {cut + 1}: {rows} rows, {rows - confirmed} of them not confirmed")

with subtest("nothing is wrong with the file system and the image"):
    machine.succeed("systemctl stop mariadb.service; umount /srv/data && e2fsck -fn /dev/disk/by-id/virtio-data")
    machine.shutdown()
    checked = subprocess.run(["qemu-img", "check", folder / "data.qcow2"], capture_output=True, text=True)
    assert checked.returncode == 0, checked
