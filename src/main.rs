//! The `mirror` command.

use mirror::cli::{self, Exit};
use mirror::config::Environment;

fn main() -> Exit {
    let superuser = rustix::process::geteuid().is_root();
    let environment = Environment::new(std::env::vars_os(), superuser);
    cli::run(std::env::args_os(), &environment)
}
