# The measuring part of `cargo xtask bench shell`: writes every figure to a file for it.
import json
import os
import time
from pathlib import Path

COUNT = int(os.environ["SNOWBOOT_BENCH_COUNT"])
WARM_UP = 10

# What the driver sends for `succeed("true")`, run by the guest alone. Its output goes nowhere: bringing it to the host
# is the driver's share.
ALONE = """
times=()
for ((i = 0; i < %d; i++)); do
    before=${EPOCHREALTIME/./}
    {
        bash -c 'set -euo pipefail; true' | (base64 -w 0; echo); echo ${PIPESTATUS[0]}
    } >/dev/null
    after=${EPOCHREALTIME/./}
    times+=($((after - before)))
done
echo "${times[@]}"
"""


def alone(count):
    return [int(word) for word in machine.succeed(ALONE % count).split()]


def together(count):
    trips = []
    for _ in range(count):
        before = time.perf_counter_ns()
        machine.succeed("true")
        trips.append((time.perf_counter_ns() - before) / 1000)
    return trips


def cpu_by_thread():
    # Microseconds of CPU time. A vCPU's thread has the guest's own time in it, and nothing splits the two exactly.
    times = {}
    for task in Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip().partition(":")[0]
        times[name] = times.get(name, 0) + int((task / "schedstat").read_text().split()[0]) / 1000
    return times


start_all()
machine.wait_for_unit("multi-user.target")
alone(WARM_UP)
together(WARM_UP)

before, process_before = cpu_by_thread(), time.process_time()
trips = together(COUNT)
after, process_after = cpu_by_thread(), time.process_time()
figures = {
    "count": COUNT,
    "emulated": os.environ.get("SNOWBOOT_LAB") == "emulated",
    "trips_us": trips,
    "alone_us": alone(COUNT),
    "process_cpu_us": (process_after - process_before) * 1_000_000,
    "thread_cpu_us": {name: time - before.get(name, 0) for name, time in after.items()},
}
(driver.out_dir / "figures.json").write_text(json.dumps(figures))
