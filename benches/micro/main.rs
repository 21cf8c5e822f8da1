//! How long single parts take, without a guest and without KVM.
//!
//! `cargo xtask bench micro` runs them all, `cargo xtask bench micro switch` those with `switch` in their names. Criterion
//! compares with the last run, which is in `target/criterion`.
#![forbid(unsafe_code)]

mod kernel;
mod queue;
mod serial;
mod start;
mod switch;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    queue::bench(&mut criterion);
    switch::bench(&mut criterion);
    serial::bench(&mut criterion);
    start::bench(&mut criterion);
    criterion.final_summary();
}
