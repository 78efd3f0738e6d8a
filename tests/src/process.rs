//! Child processes in groups of their own, that never outlive the tests.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

/// Process groups that are alive, so that a test out of time can take them along.
static ALIVE: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Names of the directories and namespaces of a test binary start with this and its process id.
pub const PREFIX: &str = "starling-test";

/// A child process and all that it starts itself.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a new process group, its output appended to `dir/NAME.log`.
    ///
    /// # Errors
    /// When the program cannot be started; nothing is left behind.
    pub fn spawn(mut command: Command, name: &str, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        ALIVE.lock().unwrap().insert(child.id().cast_signed());
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Process id, which is the group's id too.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether the main process has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails, with the end of its log, if the main process has ended.
    ///
    /// # Errors
    /// When it has.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended: {status}\n{}", self.name, self.log_tail(30)),
        }
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            // The group may have ended by itself.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Kills the group at once and waits for its end.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        ALIVE.lock().unwrap().remove(&self.pid());
    }

    /// Asks the main process to end (SIGTERM to it alone), then kills what is left; says how it ended.
    ///
    /// # Errors
    /// When it took longer than `timeout` and was killed.
    pub fn terminate(&mut self, timeout: Duration) -> anyhow::Result<std::process::ExitStatus> {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + timeout;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() > end => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        self.kill9();
        status.with_context(|| format!("{} did not end within {timeout:?} of SIGTERM", self.name))
    }

    /// Everything it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of what it printed.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// User and system CPU time used so far by the main process, seconds.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        // Linux counts in ticks of 10 ms.
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    /// Resident memory of the main process, bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped group ends all the same: SIGKILL needs no SIGCONT.
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- last of {}:\n{}", self.name, self.log_tail(25));
        }
    }
}

/// Kills every group that is still alive. For a test that ran out of time.
pub fn kill_all() {
    for pid in std::mem::take(&mut *ALIVE.lock().unwrap()) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The directory of this test binary's files, in the system's directory for temporary files.
///
/// # Panics
/// When it cannot be created.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("{PREFIX}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a directory for temporary files");
        root
    })
}

/// A new directory for one process.
///
/// # Panics
/// When it cannot be created.
pub fn fresh_dir(name: &str) -> PathBuf {
    static COUNT: Mutex<u32> = Mutex::new(0);
    let mut count = COUNT.lock().unwrap();
    *count += 1;
    let dir = root().join(format!("{count}-{name}"));
    fs::create_dir_all(&dir).expect("a directory for a process");
    dir
}

/// Removes what test binaries left behind that were killed: their processes (known by their directory in the
/// command line), namespaces and directories. Runs once per test binary.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            if owner_is_gone(&entry.file_name().to_string_lossy()) {
                kill_mentioning(&entry.path().to_string_lossy());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if owner_is_gone(&name) {
                let _ = Command::new("ip").args(["netns", "del", &name]).output();
            }
        }
    });
}

/// Whether this names something of a test binary that does not run any more.
fn owner_is_gone(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('-')) else {
        return false;
    };
    let pid = rest.split('-').next().and_then(|p| p.parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_err())
}

fn kill_mentioning(dir: &str) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(dir)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
