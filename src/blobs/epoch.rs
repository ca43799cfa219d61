//! Epochs: telling what a power cut may have damaged from what it cannot have.
//!
//! What a process wrote outlives the process, but not the machine's power. So an epoch lasts until the machine boots
//! anew without an orderly end of the last process; what was written in an earlier epoch is verified before it is
//! served again. An orderly end syncs the file system, and the epoch goes on after it.

use crate::index::{Epoch, Index, IndexError};

const EPOCH: &str = "epoch";
const BOOT: &str = "boot";
const END: &str = "end";
const ORDERLY: &str = "orderly";

/// The epoch of a running process.
#[derive(Debug)]
pub(super) struct Current {
    /// Its number.
    pub(super) epoch: Epoch,
    /// Whether it is a new one: something of the last may be missing.
    pub(super) is_new: bool,
    boot: String,
    standing: Standing,
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// The index does not know yet that it is used again: nothing may be stored before it does, for good. Else a
    /// power cut could bring back the orderly end together with rows whose files were replaced since.
    Unnoted,
    /// Blobs may be stored.
    Noted,
    /// The orderly end is noted: nothing may be stored any more.
    Closed,
}

impl Default for Current {
    /// The first epoch, of a machine that does not tell its boots apart.
    fn default() -> Self {
        Self {
            epoch: Epoch::default(),
            is_new: false,
            boot: String::new(),
            standing: Standing::Unnoted,
        }
    }
}

impl Current {
    /// The epoch by what the last process noted; `boot` names the machine's boot, if that is known. Writes nothing.
    pub(super) fn find(index: &dyn Index, boot: Option<&str>) -> Result<Self, IndexError> {
        let noted = |key| Ok::<_, IndexError>(index.note(key)?.unwrap_or_default());
        let (number, last, end) = (noted(EPOCH)?, noted(BOOT)?, noted(END)?);
        let number: u64 = number.parse().unwrap_or_default();
        let goes_on = end == ORDERLY || boot.is_some_and(|boot| boot == last);
        Ok(Self {
            epoch: Epoch(if goes_on { number } else { number + 1 }),
            is_new: !goes_on,
            boot: boot.unwrap_or_default().to_owned(),
            standing: if goes_on && end != ORDERLY {
                Standing::Noted
            } else {
                Standing::Unnoted
            },
        })
    }

    /// Makes sure that the index knows of this epoch; whether blobs may be stored in it.
    pub(super) fn note(&mut self, index: &dyn Index) -> Result<bool, IndexError> {
        if self.standing == Standing::Unnoted {
            let number = self.epoch.0.to_string();
            index.set_notes(&[(EPOCH, &number), (BOOT, &self.boot), (END, "")])?;
            self.standing = Standing::Noted;
        }
        Ok(self.standing == Standing::Noted)
    }

    /// Notes an orderly end. Everything that was stored must have reached the disk.
    pub(super) fn close(&mut self, index: &dyn Index) -> Result<(), IndexError> {
        if self.note(index)? {
            self.standing = Standing::Closed;
            index.set_notes(&[(END, ORDERLY)])?;
        }
        Ok(())
    }
}
