//! Interrupt sources that count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use snowboot_bus::{Msi, MsiAllocator, MsiError, MsiSource};

/// Hands out sources that count how often they were triggered, in the order in which they were asked for.
#[derive(Clone, Debug, Default)]
pub struct CountingMsi {
    sources: Arc<Mutex<Vec<Arc<Source>>>>,
}

#[derive(Debug, Default)]
struct Source {
    triggered: AtomicU64,
    message: Mutex<Option<Msi>>,
}

impl CountingMsi {
    /// How often the source of that number was triggered.
    #[must_use]
    pub fn count(&self, source: usize) -> u64 {
        self.source(source).map_or(0, |source| source.triggered.load(Ordering::Relaxed))
    }

    /// What the source of that number was last told to send.
    #[must_use]
    pub fn message(&self, source: usize) -> Option<Msi> {
        *self.source(source)?.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self, index: usize) -> Option<Arc<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }
}

impl MsiAllocator for CountingMsi {
    fn allocate(&self) -> Result<Arc<dyn MsiSource>, MsiError> {
        let source = Arc::new(Source::default());
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&source));
        Ok(source)
    }
}

impl MsiSource for Source {
    fn trigger(&self) {
        self.triggered.fetch_add(1, Ordering::Relaxed);
    }

    fn configure(&self, message: Option<Msi>) -> Result<(), MsiError> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
        Ok(())
    }
}
