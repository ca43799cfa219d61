//! Other programs, run for their answer.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::clock;

/// Runs `program`, found by `PATH`, gives it `input` and returns what it prints and whether it succeeds.
///
/// It is killed when it has not ended within `limit`, or when the caller goes away. What it prints elsewhere than on
/// its standard output is dropped, and so is nothing else: nobody logs it.
///
/// # Errors
/// It cannot be run; [`io::ErrorKind::TimedOut`] after `limit`; [`io::ErrorKind::FileTooLarge`] when it prints more
/// than `output` bytes.
pub async fn answer(
    program: &str,
    arguments: &[&str],
    input: &[u8],
    output: usize,
    limit: Duration,
) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let asking = async {
        if let Some(mut stdin) = stdin {
            match stdin.write_all(input).await {
                // It need not want to know.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        let mut printed = Vec::new();
        if let Some(stdout) = stdout {
            let most = u64::try_from(output).unwrap_or(u64::MAX).saturating_add(1);
            stdout.take(most).read_to_end(&mut printed).await?;
        }
        if printed.len() > output {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok((child.wait().await?.success(), printed))
    };
    clock::timeout(limit, asking)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn shell(script: &str, output: usize, limit: Duration) -> io::Result<(bool, Vec<u8>)> {
        answer("sh", &["-c", script], b"question", output, limit).await
    }

    #[tokio::test]
    async fn a_program_answers_what_it_is_asked() {
        let asked = shell("cat; echo noise >&2", 8, LIMIT).await.unwrap();
        assert_eq!(asked, (true, b"question".to_vec()));
        let refused = shell("echo no; exit 1", 8, LIMIT).await.unwrap();
        assert_eq!(refused, (false, b"no\n".to_vec()));
    }

    #[tokio::test]
    async fn what_is_too_long_or_too_slow_is_cut() {
        let kind = |answer: io::Result<_>| answer.map(|_: (bool, Vec<u8>)| ()).unwrap_err().kind();
        let long = shell("printf 123456789", 8, LIMIT).await;
        assert_eq!(kind(long), io::ErrorKind::FileTooLarge);
        let endless = shell("yes", 8, LIMIT).await;
        assert_eq!(kind(endless), io::ErrorKind::FileTooLarge);
        let silent = shell("exec sleep 60", 8, Duration::from_millis(50)).await;
        assert_eq!(kind(silent), io::ErrorKind::TimedOut);
        let missing = answer("no-such-program", &[], b"", 8, LIMIT).await;
        assert_eq!(kind(missing), io::ErrorKind::NotFound);
    }
}
