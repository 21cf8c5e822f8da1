//! The conformance test finds what it looks for: each rule is broken once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::echo::Echo;
use super::*;
use crate::{DeviceId, NotSaveable, Saved};

/// One thing that a device gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    TransportFeatures,
    QueueSize,
    StopsTwice,
    IgnoresWaitingWork,
    KeepsChainsOverStop,
    SavesAnother,
    ForgetsConfig,
    TakesAnyState,
    TakesHalf,
    ConfigByWidth,
    ConfigPanics,
    Overwrites,
    FaultsWithoutReason,
}

struct Broken {
    echo: Echo,
    flaw: Flaw,
    stopped: bool,
    kept: Vec<crate::DescriptorChain>,
    session: Option<Session>,
}

impl Broken {
    fn new(flaw: Flaw) -> Self {
        Self { echo: Echo::default(), flaw, stopped: false, kept: Vec::new(), session: None }
    }

    /// Has a session of its own, for flaws that need one.
    fn is_own(&self) -> bool {
        matches!(self.flaw, Flaw::KeepsChainsOverStop | Flaw::Overwrites)
    }

    fn serve(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        for queue in session.queues.iter_mut().flatten() {
            queue.serve(&session.interrupt, |mut chain| {
                if self.flaw == Flaw::KeepsChainsOverStop {
                    self.kept.push(chain);
                    return crate::Served::Later;
                }
                // Room that is only claimed: one byte more than there is.
                let room = chain.writer.remaining();
                assert_eq!(chain.writer.advance(room), room + 1, "overwritten");
                crate::Served::Done(chain)
            })?;
        }
        Ok(())
    }
}

impl Device for Broken {
    fn identity(&self) -> Identity {
        let mut identity = self.echo.identity();
        match self.flaw {
            Flaw::TransportFeatures => identity.features |= features::EVENT_IDX,
            Flaw::QueueSize => identity.queue_sizes = vec![12],
            _ => {}
        }
        Identity { id: DeviceId::Entropy, ..identity }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.echo.read_config(offset, data);
        if self.flaw == Flaw::ConfigByWidth && data.len() == 4 {
            data[0] = 1;
        }
        assert!(self.flaw != Flaw::ConfigPanics || offset < 0x100, "out of bounds");
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        self.echo.write_config(offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.stopped = false;
        if self.is_own() {
            self.session = Some(session);
            let _ = self.serve();
            return Ok(());
        }
        if self.flaw == Flaw::IgnoresWaitingWork {
            self.session = Some(session);
            return Ok(());
        }
        self.echo.start(session)
    }

    fn stop(&mut self) -> Option<Session> {
        if self.flaw == Flaw::StopsTwice && !self.stopped {
            self.stopped = true;
            let session = self.echo.stop()?;
            let copy = Session {
                features: session.features,
                queues: Vec::new(),
                interrupt: session.interrupt.clone(),
            };
            self.session = Some(copy);
            return Some(session);
        }
        self.session.take().or_else(|| self.echo.stop())
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        if let Some(session) = self.session.take_if(|_| self.flaw == Flaw::IgnoresWaitingWork) {
            let _ = self.echo.start(session);
        }
        if self.is_own() {
            return self.serve();
        }
        self.echo.queue_ready(queue)?;
        if self.flaw == Flaw::FaultsWithoutReason {
            return Err(QueueFault { queue, reason: "it felt like it".into() });
        }
        Ok(())
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        self.echo.source_ready(token)
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        let mut saved = self.echo.save()?;
        if self.flaw == Flaw::SavesAnother {
            static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
            saved.body["events"] = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).into();
        }
        Ok(saved)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        match self.flaw {
            Flaw::TakesAnyState => return Ok(()),
            Flaw::TakesHalf => self.echo.write_config(0, &[7]),
            _ => {}
        }
        self.echo.restore(saved)?;
        if self.flaw == Flaw::ForgetsConfig {
            // As a fresh device has it, so only a device in use is missing something.
            self.echo.write_config(0, &[0; 8]);
        }
        Ok(())
    }
}

fn passes(flaw: Flaw) -> bool {
    catch_unwind(AssertUnwindSafe(|| conformance(|| Box::new(Broken::new(flaw))))).is_ok()
}

#[test]
fn each_flaw_is_found() {
    assert!(passes(Flaw::None));
    let flaws = [
        Flaw::TransportFeatures,
        Flaw::QueueSize,
        Flaw::StopsTwice,
        Flaw::IgnoresWaitingWork,
        Flaw::KeepsChainsOverStop,
        Flaw::SavesAnother,
        Flaw::ForgetsConfig,
        Flaw::TakesAnyState,
        Flaw::TakesHalf,
        Flaw::ConfigByWidth,
        Flaw::ConfigPanics,
        Flaw::Overwrites,
        Flaw::FaultsWithoutReason,
    ];
    for flaw in flaws {
        assert!(!passes(flaw), "{flaw:?} goes unnoticed");
    }
}

#[test]
fn a_driver_s_requests_go_through_indirect_tables_too() {
    let mut driver = Driver::new(Echo::default());
    driver.start(features::COMMON).unwrap();
    for round in 0..100u8 {
        let head = driver.add_indirect(0, &[&[round], b"ab"], &[2, 4]);
        driver.kick(0).unwrap();
        let used = driver.used(0);
        assert_eq!((used.len(), used[0].head), (1, head));
        assert_eq!(used[0].written(), [round, b'a', b'b']);
    }
    assert_eq!(driver.interrupts(0), 100);
}

#[test]
fn a_driver_moves_to_another_device() {
    let mut driver = Driver::new(Echo::default());
    driver.start(features::EVENT_IDX).unwrap();
    driver.device_mut().write_config(0, b"12345678");
    driver.add(1, &[], &[4]);
    driver.notify(1).unwrap();
    let old = driver.move_to(Echo::default()).unwrap();
    drop(old);
    assert_eq!(&driver.config::<8>(0), b"12345678");
    driver.source_ready(echo::EVENT).unwrap();
    assert_eq!(driver.used(1)[0].written(), [0x5a]);
    assert_eq!(driver.request(0, &[b"x"], &[1]).written(), b"x");
}
