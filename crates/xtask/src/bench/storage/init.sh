#!/bin/busybox sh
# The guest of `cargo xtask bench storage`: does the job that its command line names, between marks.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
# More take emulated hosts too long: each leaves the guest several times.
REQUESTS=4001
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/always/list); do insmod /modules/always/$module; done
for word in $(cat /proc/cmdline); do
    case $word in
        bench.job=*) job=${word#*=} ;;
        bench.mount=*) mount=$(echo "${word#*=}" | tr + ' ') ;;
    esac
done
measure() {
    part=$1
    shift
    echo "MARK begin $part"
    usleep 200000
    "$@"
    echo "MARK end $part"
    usleep 200000
}
random() {
    fio --name=r --filename=/dev/vda --rw=randread --bs=4k --direct=1 --ioengine=libaio --iodepth=$1 --number_ios=$2 \
        --randseed=7 --norandommap --minimal >/dev/null
}
case $job in
    disk)
        random 1 1000
        # What fio itself takes, without the requests.
        measure none random 1 1
        measure qd1 random 1 $REQUESTS
        measure qd32 random 32 $REQUESTS
        ;;
    read)
        mkdir /s
        mount -t $mount /s
        measure read dd if=/s/big of=/dev/null bs=1M
        ;;
    walk)
        mkdir /s
        mount -t $mount /s
        measure walk sh -c 'find /s -type f -size -9 | wc -l'
        measure again sh -c 'find /s -type f -size -9 | wc -l'
        ;;
esac
echo "MARK over"
sleep 1000
