//! How machines begin, rest and end, from whichever thread that is asked for. `cargo xtask test` runs these.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use snowboot_config::VcpuCount;
use snowboot_tests::{Guest, PATIENCE, config};
use snowboot_vmm::{Builder, Error, Machine, Outcome};

/// Calls a function at every byte that the guest prints, on the vCPU's thread.
struct Each<F>(F);

impl<F: FnMut()> Write for Each<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A machine that prints for as long as it runs.
fn talkative(each: impl FnMut() + Send + 'static) -> Result<Machine> {
    Ok(Builder::new(config("life", "end=busy")?).serial_output(Box::new(Each(each))).build()?)
}

fn outcome(machine: &Machine) -> Result<Outcome> {
    machine.wait(Some(PATIENCE)).context("the machine does not end")
}

fn refusal(outcome: Result<(), Error>) -> String {
    outcome.expect_err("it was allowed").to_string()
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_machine_that_never_ran_ends_like_any_other() -> Result<()> {
    let machine = talkative(|| {})?;
    let (send, ended) = mpsc::channel();
    machine.on_end(Box::new(move |outcome| drop(send.send(outcome.clone()))));
    assert!(refusal(machine.pause()).contains("was not started"));
    assert_eq!((machine.outcome(), machine.wait(Some(Duration::ZERO))), (None, None));
    machine.stop();
    assert_eq!(ended.try_recv()?, Outcome::Stopped);
    assert_eq!(outcome(&machine)?, Outcome::Stopped);
    assert!(refusal(machine.start()).contains("was started before"));
    assert!(refusal(machine.pause()).contains("has ended"));
    let (send, late) = mpsc::channel();
    machine.on_end(Box::new(move |outcome| drop(send.send(outcome.clone()))));
    assert_eq!(late.try_recv()?, Outcome::Stopped);
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn the_outputs_writer_is_dropped_at_the_end_and_nothing_can_be_typed_then() -> Result<()> {
    let held = Arc::new(());
    let (watch, writer) = (Arc::downgrade(&held), Arc::clone(&held));
    drop(held);
    let machine = talkative(move || drop(Arc::clone(&writer)))?;
    machine.start()?;
    assert_eq!((machine.serial_input(b"x"), watch.strong_count()), (1, 1));
    machine.stop();
    assert_eq!((machine.serial_input(b"x"), watch.strong_count()), (0, 0));
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn it_starts_once() -> Result<()> {
    let guest = Guest::start(config("once", "end=busy")?)?;
    assert!(refusal(guest.machine.start()).contains("was started before"));
    guest.wait_for_line("tick")?;
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_callback_at_the_end_may_stop_and_drop_the_machine() -> Result<()> {
    let machine = Arc::new(talkative(|| {})?);
    let (own, (send, ended)) = (Arc::clone(&machine), mpsc::channel());
    machine.on_end(Box::new(move |_| {
        own.stop();
        assert_eq!(own.outcome(), Some(Outcome::Stopped));
        drop(own);
        let _ = send.send(());
    }));
    machine.start()?;
    machine.stop();
    ended.recv_timeout(PATIENCE).context("the callback was not called")?;
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_vcpus_own_thread_ends_its_machine_and_cannot_wait_for_itself() -> Result<()> {
    let own: Arc<Mutex<Weak<Machine>>> = Arc::default();
    let (send, heard) = mpsc::channel();
    let from_inside = Arc::clone(&own);
    let machine = Arc::new(talkative(move || {
        let machine = from_inside.lock().expect("nobody panics").upgrade();
        if let Some(machine) = machine {
            let _ = send.send((refusal(machine.pause()), refusal(machine.resume())));
            machine.stop();
        }
    })?);
    *own.lock().expect("nobody panics") = Arc::downgrade(&machine);
    machine.start()?;
    assert_eq!(outcome(&machine)?, Outcome::Stopped);
    let (pause, resume) = heard.recv()?;
    assert!(pause.contains("one of its vCPUs' threads") && resume.contains("one of its vCPUs' threads"));
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_panic_on_a_vcpus_thread_is_the_machines_end_only() -> Result<()> {
    for vcpus in [1, 2] {
        let mut config = config("panic", "end=busy")?;
        config.vcpus = VcpuCount::try_from(vcpus)?;
        let output = Each(|| panic!("a writer that fails in its own way"));
        let machine = Builder::new(config).serial_output(Box::new(output)).build()?;
        machine.start()?;
        let Outcome::Fault(what) = outcome(&machine)? else { anyhow::bail!("it went on") };
        ensure!(what.contains("vCPU 0 panicked"), "{what}");
        machine.stop();
        assert!(refusal(machine.pause()).contains("has ended"));
    }
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn who_waits_for_the_end_does_not_wait_for_a_pause() -> Result<()> {
    let (open, gate) = mpsc::channel::<()>();
    let (tell, stuck) = mpsc::channel();
    let machine = Arc::new(talkative(move || {
        let _ = tell.send(());
        let _ = gate.recv();
    })?);
    machine.start()?;
    stuck.recv_timeout(PATIENCE).context("the guest prints nothing")?;
    let other = Arc::clone(&machine);
    let pausing = thread::spawn(move || other.pause());
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    assert_eq!(machine.wait(Some(Duration::from_millis(100))), None);
    assert_eq!(machine.outcome(), None);
    ensure!(start.elapsed() < Duration::from_secs(20), "waiting took {:?}", start.elapsed());
    ensure!(!pausing.is_finished(), "a vCPU that is busy outside of the guest counts as paused");
    drop(open);
    pausing.join().expect("it does not panic")?;
    machine.resume()?;
    machine.stop();
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn pauses_of_many_threads_and_an_end_in_between_come_to_an_end() -> Result<()> {
    for round in 0..10u64 {
        let guest = Guest::start(config("many", "end=busy")?)?;
        guest.wait_for_line("tick")?;
        let (machine, refused) = (&guest.machine, AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while machine.pause().and_then(|()| machine.resume()).is_ok() {}
                    refused.fetch_add(1, Ordering::Relaxed);
                });
            }
            thread::sleep(Duration::from_millis(5 * round));
            machine.stop();
        });
        assert_eq!(refused.into_inner(), 3);
        assert_eq!(guest.outcome()?, Outcome::Stopped);
    }
    Ok(())
}
