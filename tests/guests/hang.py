# Commands that never end. One is ended by its own time limit, with the machine fit for more; the other by that of the test,
# which takes all machines down.
machine1.wait_for_unit("multi-user.target")
machine2.wait_for_unit("multi-user.target")

with subtest("a time limit of its own"):
    assert machine1.execute("sleep infinity", timeout=2)[0] == 124
    assert machine1.succeed("echo fit").strip() == "fit"

with subtest("the time limit of the test"):
    machine1.succeed("cat")
    raise AssertionError("a command that never ends has ended")
