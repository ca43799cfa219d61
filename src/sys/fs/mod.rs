//! Disk access.
