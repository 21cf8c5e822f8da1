#!@toolbox@/bin/busybox sh
# Stage 2: what a NixOS system's init does of itself, and the service of the driver's shell, which needs both of its devices.
export PATH=/bin
@toolbox@/bin/busybox mkdir -p /bin /etc /root
@toolbox@/bin/busybox --install -s /bin
ln -sf @toolbox@/bin/bash /bin/bash
printf '#!/bin/sh\nsync\nexec busybox poweroff -f\n' >/bin/poweroff.new
chmod +x /bin/poweroff.new
mv /bin/poweroff.new /bin/poweroff
hostname machine
if grep -q ' test.ends' /proc/cmdline; then
    echo "stage 2: it ends as it was told" >/dev/ttyS0
    exec /bin/poweroff
fi
while true; do
    if [ -c /dev/hvc0 ] && [ -c /dev/ttyS0 ]; then
        setsid @toolbox@/bin/backdoor
    fi
    sleep 1
done
