//! A value that is replaced as a whole while others use it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The value that is in force. Whoever has taken it keeps what they took; whoever comes later gets the new one.
pub struct Current<T>(Mutex<Arc<T>>);

impl<T> Current<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `value` in force; returns what was before.
    pub fn replace(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Current<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Current").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_taken_a_value_keeps_it() {
        let current = Current::new("old");
        let taken = current.get();
        assert_eq!(*current.replace("new"), "old");
        assert_eq!((*taken, *current.get()), ("old", "new"));
    }
}
