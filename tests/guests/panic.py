# The guest's kernel panics in the middle of a command.
machine.wait_for_unit("multi-user.target")
machine.succeed("echo c >/proc/sysrq-trigger")
