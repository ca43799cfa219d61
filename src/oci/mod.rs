//! The registry protocol as pure types: no I/O, no clock, no allocation without a limit.
