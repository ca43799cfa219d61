//! The process as the system sees it: its limits and what it uses.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files as far as the system allows without privileges, and returns it.
///
/// Every connection and every open blob is a file; the usual soft limit of 1024 is for programs that use `select`.
///
/// # Errors
/// The system refuses; the limit is what it was.
pub fn raise_open_file_limit() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )?;
    }
    Ok(limit.maximum)
}

/// Resident memory in bytes, where the system tells it.
#[expect(
    clippy::disallowed_methods,
    reason = "a file of the kernel's, which no test needs to fail"
)]
pub fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The name of the machine's present boot, where the system tells it: another one after each start of the machine.
#[expect(
    clippy::disallowed_methods,
    reason = "a file of the kernel's, which no test needs to fail"
)]
pub fn boot() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The number of open files, where the system tells it.
pub fn open_files() -> Option<u64> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Less the one that lists the directory.
    u64::try_from(files).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_on_open_files_reaches_the_hard_one() {
        let raised = raise_open_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }

    #[test]
    fn the_process_knows_its_memory_and_files() {
        assert!(resident_memory().unwrap() > 1024 * 1024);
        assert!(open_files().unwrap() >= 3);
    }
}
