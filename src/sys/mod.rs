//! Sole owner of time, randomness, spawning and disk.
