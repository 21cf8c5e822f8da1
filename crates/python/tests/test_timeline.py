"""How boots went, as scripts see it."""

from __future__ import annotations

import time

import snowboot
from snowboot import BootMark, BootTimeline, MachineError
from support import Scratch


class Timelines(Scratch):
    def test_tell_what_was_reached(self) -> None:
        machine = self.driver(machine="marks").machine("machine")
        with self.assertRaisesRegex(MachineError, "machine: has no boot to tell of: it was never started"):
            machine.boot_timeline()
        began = time.monotonic()
        machine.start()
        early = machine.boot_timeline()
        self.assertIsNone(early.shell_ready)
        self.assertEqual((dict(early.systemd), early.initcalls, early.guest_clock), ({}, (), None))
        machine.succeed("sleep 0.2")
        timeline = machine.boot_timeline()
        assert timeline.guest_entered and timeline.shell_ready and timeline.first_answer
        self.assertLess(timeline.guest_entered, timeline.shell_ready)
        self.assertGreaterEqual(timeline.first_answer, timeline.shell_ready + 0.2)
        self.assertLess(timeline.first_answer, time.monotonic() - began)
        self.assertEqual(timeline.init_started, timeline.guest_entered)
        self.assertEqual(timeline.marks, (BootMark(20, timeline.guest_entered),) * 2)
        self.assertEqual((timeline.marks_dropped, timeline.memory_ready), (0, None))

    def test_begin_anew_with_each_start_and_cannot_be_changed(self) -> None:
        machine = self.driver().machine("machine")
        machine.succeed("sleep 0.5")
        machine.crash()
        machine.succeed("true")
        timeline = machine.boot_timeline()
        assert timeline.shell_ready and timeline.first_answer
        self.assertLess(timeline.first_answer - timeline.shell_ready, 0.5)
        for field in BootTimeline._fields:
            with self.assertRaises(AttributeError):
                setattr(timeline, field, None)
        with self.assertRaises(TypeError):
            timeline.systemd["finish"] = 0.0  # type: ignore[index]

    def test_ask_the_guest(self) -> None:
        machine = self.driver().machine("machine")
        machine.connect()
        shell = machine.shell
        assert shell is not None
        shell.sendall(
            b"systemctl() { echo UserspaceTimestampMonotonic=1500000; }; "
            b"dmesg() { echo 'initcall f+0x0/0x1 returned 0 after 7 usecs'; }; export -f systemctl dmesg\n"
        )
        timeline = machine.boot_timeline()
        self.assertEqual(dict(timeline.systemd), {"userspace": 1.5})
        self.assertEqual(timeline.initcalls, (snowboot.Initcall("f", 7e-6),))
        self.assertIsNone(timeline.target_reached)
        assert timeline.guest_clock is not None
