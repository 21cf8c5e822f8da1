"""Reading a display. Machines have none: `Machine.get_screen_text` and its kin say so."""
