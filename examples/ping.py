machine1.succeed("ping -c 1 machine2")
machine2.succeed("ping -c 1 machine1")
