//! Exit statuses, as `docs/exit-codes.md` has them. Status 0 is success; 2 is clap's for a wrong command line.

/// The host's side failed: a file, KVM, memory ... The standard error says what and what to do.
pub(crate) const HOST_ERROR: u8 = 1;
/// The command line is wrong, as clap says it.
pub(crate) const USAGE: u8 = 2;
/// The guest asked for a reset.
pub(crate) const RESET: u8 = 3;
/// The guest's CPU shut down after a triple fault.
pub(crate) const TRIPLE_FAULT: u8 = 4;
/// KVM could not go on with the guest.
pub(crate) const KVM_FAULT: u8 = 5;

/// The status of a program that a signal ended, as shells count.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(HOST_ERROR, |number| number.saturating_add(128))
}

/// For `snowboot run --help`.
pub(crate) const RUN_HELP: &str = "\
Exit status:
  0  the guest powered off, or Ctrl-a x stopped it
  1  the host's side failed: the standard error says what, and what to do
  2  the command line is wrong
  3  the guest reset: a reboot, or a kernel panic where its command line has panic=1
  4  the guest's CPU shut down after a triple fault
  5  KVM could not go on with the guest
  129, 130, 131, 143  SIGHUP, SIGINT, SIGQUIT or SIGTERM stopped the machine";
