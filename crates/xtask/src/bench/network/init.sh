#!/bin/busybox sh
# The guest of `cargo xtask bench network`: serves, or does the parts that its command line names, between marks. Which of them
# it is, its network card's address says: the first serves, the second asks.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/always/list); do insmod /modules/always/$module; done
for word in $(cat /proc/cmdline); do
    case $word in
        bench.parts=*) parts=$(echo "${word#*=}" | tr + ' ') ;;
    esac
done
ip link set lo up
ip link set eth0 up
# So that what the receiver's own queue loses is not counted as the network's.
echo 16777216 >/proc/sys/net/core/rmem_default
case $(cat /sys/class/net/eth0/address) in
    *:01)
        ip addr add 10.9.0.1/24 dev eth0
        echo "the server is there"
        traffic serve &
        iperf3 --server >/dev/null 2>&1 &
        wait
        ;;
    *:02)
        ip addr add 10.9.0.2/24 dev eth0
        server=10.9.0.1
        ;;
    *)
        ip addr add 10.0.2.15/24 dev eth0
        ip route add default via 10.0.2.2
        server=10.0.2.2
        ;;
esac
echo "the network is there"
# What is there only once the other guest runs.
until traffic trips $server 10 && iperf3 -c $server -n 1M >/dev/null; do usleep 100000; done
stream() { iperf3 --client $server --bytes $1 >/dev/null && echo "COUNT $(($2 * 1048576))"; }
measure() {
    part=$1
    shift
    usleep 200000
    echo "MARK begin $part"
    "$@"
    echo "MARK end $part"
}
for part in $parts; do
    case $part in
        tcp) stream 8M 8 && measure tcp stream 32M 32 ;;
        trips) traffic trips $server 50 && measure trips sh -c "traffic trips $server 500 && echo COUNT 500" ;;
        udp)
            traffic datagrams $server 500 &&
                measure udp sh -c "echo COUNT \$(traffic datagrams $server 5000)"
            ;;
        gateway) stream 8M 8 && measure gateway stream 32M 32 ;;
    esac
done
head -n 12 /proc/interrupts | grep virtio
echo "MARK over"
poweroff -f
