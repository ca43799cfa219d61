//! Epochs: telling what a power cut may have damaged from what it cannot have.
//!
//! What a process wrote outlives the process, but not the machine's power. So an epoch lasts as long as a boot of the
//! machine, and what was written in an earlier one is verified before it is served again. The index knows of an epoch
//! before anything is stored in it: a power cut that takes the note takes what was stored after it.

use crate::index::{Epoch, Index, IndexError};

const EPOCH: &str = "epoch";
const BOOT: &str = "boot";

/// The epoch of a running process.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// Its number.
    pub(super) epoch: Epoch,
    /// Whether it is a new one: something of the last may be missing.
    pub(super) is_new: bool,
    boot: String,
    is_noted: bool,
}

impl Current {
    /// The epoch by what the last process noted; `boot` names the machine's boot, if that is known. Writes nothing.
    pub(super) fn find(index: &dyn Index, boot: Option<&str>) -> Result<Self, IndexError> {
        let noted = |key| Ok::<_, IndexError>(index.note(key)?.unwrap_or_default());
        let (number, last) = (noted(EPOCH)?, noted(BOOT)?);
        let number: u64 = number.parse().unwrap_or_default();
        let goes_on = boot.is_some_and(|boot| boot == last);
        Ok(Self {
            epoch: Epoch(if goes_on { number } else { number + 1 }),
            is_new: !goes_on,
            boot: boot.unwrap_or_default().to_owned(),
            is_noted: goes_on,
        })
    }

    /// Makes sure that the index knows of this epoch.
    pub(super) fn note(&mut self, index: &dyn Index) -> Result<(), IndexError> {
        if !self.is_noted {
            let number = self.epoch.0.to_string();
            index.set_notes(&[(EPOCH, &number), (BOOT, &self.boot)])?;
            self.is_noted = true;
        }
        Ok(())
    }
}
