//! Children of the benchmark: the server and the sink, each a process of its own.
//!
//! Client, server and sink share neither runtime nor memory, so what a process costs can be read from
//! `/proc`. A child is ended by its own handle when that is dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// Processor time is counted in these; the kernel's `USER_HZ`, which is 100 on all machines we build for.
const TICKS_PER_SECOND: u32 = 100;
/// How long a child may take until it says that it is ready.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often is looked whether a child has ended.
const POLL: Duration = Duration::from_millis(2);
/// The first line of a child is a few hundred addresses at most.
const LINE_MAX_BYTES: u64 = 16 << 10;

/// A running child; it is killed when this is dropped.
pub struct Process {
    child: Child,
    /// Kept open, so that the child can go on writing.
    _output: Option<BufReader<ChildStdout>>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Processor time in user and system mode, in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// The most resident memory that it ever had.
    pub peak_resident_bytes: u64,
}

impl Process {
    /// Starts this very program with other arguments, and waits for its first line, which begins with
    /// `ready `; hands back the rest of that line.
    ///
    /// # Errors
    /// The child ended, or said nothing or something else.
    pub async fn start<A: AsRef<OsStr>>(arguments: &[A]) -> anyhow::Result<(Self, String)> {
        let mut child = spawn(arguments)?;
        let output = child.stdout.take();
        let mut process = Self { child, _output: None };
        let output = output.context("the output of a child process")?;
        let reading = tokio::task::spawn_blocking(move || first_line(output));
        let (line, output) = match tokio::time::timeout(START_LIMIT, reading).await {
            Ok(read) => read?.context("reading what a child process says")?,
            Err(_) => anyhow::bail!("a child process was not ready within {START_LIMIT:?}"),
        };
        process._output = Some(output);
        let ready = line.strip_prefix("ready ").with_context(|| format!("a child process said {line:?}"))?;
        Ok((process, ready.trim().to_owned()))
    }

    /// Starts this very program with other arguments, and kills it so long after.
    ///
    /// # Errors
    /// It can't be started, or had ended by itself, which it must not.
    pub async fn start_and_kill<A: AsRef<OsStr>>(arguments: &[A], after: Duration) -> anyhow::Result<()> {
        let mut process = Self { child: spawn(arguments)?, _output: None };
        tokio::time::sleep(after).await;
        process.kill()
    }

    /// What the child has used until now.
    ///
    /// # Errors
    /// It has ended, or this system has no `/proc`.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let id = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("the child's /proc/…/stat")?;
        let status =
            fs::read_to_string(format!("/proc/{id}/status")).context("the child's /proc/…/status")?;
        Ok(Usage {
            cpu: cpu_of(&stat).context("the processor time in /proc/…/stat")?,
            resident_bytes: memory_of(&status, "VmRSS:").context("VmRSS in /proc/…/status")?,
            peak_resident_bytes: memory_of(&status, "VmHWM:").context("VmHWM in /proc/…/status")?,
        })
    }

    /// `kill -9`, and gone.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.ensure_runs()?;
        self.child.kill().context("killing a child process")?;
        self.child.wait().context("waiting for a child process")?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that; says how long it took.
    ///
    /// # Errors
    /// It had ended before, does not end in time, or ends with another exit code than 0.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.signal(Signal::TERM)?;
        while began.elapsed() < limit {
            if let Some(status) = self.child.try_wait().context("waiting for a child process")? {
                anyhow::ensure!(status.success(), "a child process ended with {status} after SIGTERM");
                return Ok(began.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("a child process did not end within {limit:?} of SIGTERM")
    }

    /// Stops it where it is.
    ///
    /// # Errors
    /// It had ended before.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.ensure_runs()?;
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(id, signal).with_context(|| format!("sending {signal:?}"))
    }

    fn ensure_runs(&mut self) -> anyhow::Result<()> {
        let ended: Option<ExitStatus> = self.child.try_wait().context("looking after a child process")?;
        anyhow::ensure!(ended.is_none(), "a child process ended by itself: {ended:?}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; nothing of it is needed any more either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn<A: AsRef<OsStr>>(arguments: &[A]) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(program);
    // Settings in the environment of the caller must not change what is measured.
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().context("starting a child process")
}

fn first_line(output: ChildStdout) -> std::io::Result<(String, BufReader<ChildStdout>)> {
    let mut reader = BufReader::new(output);
    let mut line = String::new();
    reader.by_ref().take(LINE_MAX_BYTES).read_line(&mut line)?;
    Ok((line, reader))
}

/// User and system time; the name before them may hold blanks and brackets.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * user.checked_add(system)? / TICKS_PER_SECOND)
}

fn memory_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_name_with_blanks_and_brackets() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 7 8 20 0 3 0 100 1 2 3";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_of("42 (a"), None);
        assert_eq!(cpu_of("42 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(memory_of("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(memory_of("VmPeak:\t 9 kB\n", "VmRSS:"), None);
    }
}
