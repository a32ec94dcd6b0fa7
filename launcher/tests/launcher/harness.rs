//! Starts the launcher in an environment of its own and watches it. Used by every test here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A router that ends by itself when it is told that no shard will come any more, after telling so.
pub const NOTICING_ROUTER: &str =
    "log Connected; read -r nothing; log told the clients; echo 'Error: shard lost' >&2; exit 1";
/// A router that says of each shard that it serves (and notes which), and ends as [`NOTICING_ROUTER`].
pub const REPORTING_ROUTER: &str = "log Connected; until_line 'Shard ready in'; \
     while shard=$(cat \"$FAKE_DIR/shard.pid\") && echo \"serving $shard\" >&0; \
     do echo \"$shard\" >\"$FAKE_DIR/served\"; sleep 0.01; done 2>/dev/null; exit 1";
/// Children that start and serve until they are told to stop.
pub const SERVING_SHARD: &str = "log loaded; ready; serve";
pub const SERVING_ROUTER: &str = "log listening; log Connected; serve";

/// A launch to be: folders, flags, environment and what the fake children do.
pub struct Setup {
    pub folder: TempDir,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A complete model folder, serving children, port 0.
    pub fn new(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let model = folder.path().join("model");
        fs::create_dir(&model).expect("made");
        fs::write(model.join("config.json"), r#"{"max_position_embeddings": 8192}"#).expect("written");
        fs::write(model.join("model.safetensors"), "").expect("written");
        let mut setup = Self { folder, flags: Vec::new(), environment: Vec::new() };
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/launcher");
        let fake = here.join("fake_child.sh");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", here.join("fake_path").display());
        let own = setup.folder.path().display().to_string();
        for (name, value) in [
            ("QUERN_SHARD_BIN", fake.to_str().expect("UTF-8")),
            ("QUERN_ROUTER_BIN", fake.to_str().expect("UTF-8")),
            ("PATH", path.as_str()),
            ("HOME", own.as_str()),
            ("TMPDIR", own.as_str()),
            ("FAKE_DIR", own.as_str()),
            ("FAKE_SHARD", SERVING_SHARD),
            ("FAKE_ROUTER", SERVING_ROUTER),
        ] {
            setup.environment.push((name.to_owned(), value.to_owned()));
        }
        setup.with_flags(flags)
    }

    /// Adds flags.
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the shard does, in shell.
    pub fn shard(self, script: &str) -> Self {
        self.env("FAKE_SHARD", script)
    }

    /// What the router does, in shell.
    pub fn router(self, script: &str) -> Self {
        self.env("FAKE_ROUTER", script)
    }

    /// Serves the model folder of this setup.
    pub fn with_model(self) -> Self {
        let model = self.model().display().to_string();
        self.with_flags(&["--model-id", &model]).env("PORT", "0")
    }

    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Starts the launcher with stdout and stderr on one pipe, copied to a file that its children can read.
    pub fn start(self) -> Launched {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let process = Command::new(env!("CARGO_BIN_EXE_text-generation-launcher"))
            .args(&self.flags)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("a second handle"))
            .stderr(writer)
            .spawn()
            .expect("the launcher runs");
        let (sender, lines) = channel();
        let mut copy = fs::File::create(self.folder.path().join("output")).expect("created");
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                // Fails when the folder is gone, and with it those that read it.
                let _ = writeln!(copy, "{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Launched { folder: self.folder, process, lines, seen: Vec::new() }
    }

    /// Runs the launcher to its end by itself.
    pub fn run(self) -> Ended {
        self.start().wait()
    }
}

/// A running launcher.
pub struct Launched {
    folder: TempDir,
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Launched {
    /// Waits for a line with `part`; panics with all output when it does not come.
    pub fn until(&mut self, part: &str) -> &mut Self {
        let end = Instant::now() + PATIENCE;
        while !self.seen.iter().any(|line| line.contains(part)) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no line with {part:?} in:\n{}", self.seen.join("\n")),
            }
        }
        self
    }

    pub fn signal(&mut self, signal: Signal) -> &mut Self {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("the launcher runs");
        self
    }

    /// Sends signals of which the launcher sees none before all are there.
    pub fn together(&mut self, signals: &[Signal]) -> &mut Self {
        self.signal(Signal::STOP);
        let pid = i32::try_from(self.pid()).expect("a pid");
        let end = Instant::now() + PATIENCE;
        while state(pid) != Some('T') {
            assert!(Instant::now() < end, "it does not stop");
            pause();
        }
        for signal in signals {
            self.signal(*signal);
        }
        self.signal(Signal::CONT)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Pid that a fake child noted.
    pub fn child_pid(&self, role: &str) -> i32 {
        note(self.folder.path(), &format!("{role}.pid")).parse().expect("a pid")
    }

    /// Ends a process of a fake child's own, which must still run.
    pub fn end_process(&self, role: &str) {
        let pid = self.child_pid(role);
        assert!(is_running(pid), "{role} has ended by itself");
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it runs");
    }

    /// Waits for the launcher's end and the end of its output.
    pub fn wait(mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        loop {
            // Nobody else holds the other end of its output: that it closes is the launcher's end.
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.seen.join("\n")),
            }
        }
        let status = self.process.wait().expect("waited");
        let lines = std::mem::take(&mut self.seen);
        // Takes the folder out of a struct that has a Drop of its own.
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("temporary folder"));
        Ended { folder, code: status.code(), lines }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // After a failed assertion; nothing to do for one that has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A launcher that has ended.
pub struct Ended {
    pub folder: TempDir,
    pub code: Option<i32>,
    pub lines: Vec<String>,
}

impl Ended {
    pub fn output(&self) -> String {
        self.lines.join("\n")
    }

    pub fn last(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }

    /// Position of the first line with `part`.
    pub fn position(&self, part: &str) -> usize {
        let found = self.lines.iter().position(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("no line with {part:?} in:\n{}", self.output()))
    }

    /// Arguments that a fake child was started with.
    pub fn arguments(&self, role: &str) -> Vec<String> {
        note(self.folder.path(), &format!("{role}.args")).lines().map(str::to_owned).collect()
    }

    /// Environment that a fake child was started with.
    pub fn environment(&self, role: &str) -> Vec<String> {
        note(self.folder.path(), &format!("{role}.env")).lines().map(str::to_owned).collect()
    }

    /// Whether a fake child was ever started.
    pub fn started(&self, role: &str) -> bool {
        self.folder.path().join(format!("{role}.pid")).exists()
    }

    /// Fails when a child that was started still runs.
    pub fn leaves_nothing(&self) {
        for role in ["shard", "router", "python"].into_iter().filter(|role| self.started(role)) {
            let pid = note(self.folder.path(), &format!("{role}.pid")).parse().expect("a pid");
            assert!(ends(pid), "{role} is left behind:\n{}", self.output());
        }
        let names =
            fs::read_dir(self.folder.path()).expect("listed").flatten().map(|entry| entry.file_name());
        let left: Vec<_> =
            names.filter(|name| name.to_string_lossy().starts_with("text-generation")).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// What a fake child wrote down, waited for.
pub fn note(folder: &Path, name: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        match fs::read_to_string(folder.join(name)) {
            Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
            _ if Instant::now() > end => panic!("no note {name}"),
            _ => pause(),
        }
    }
}

/// Whether the process is gone, or is soon.
pub fn ends(pid: i32) -> bool {
    let end = Instant::now() + PATIENCE;
    while is_running(pid) {
        if Instant::now() > end {
            return false;
        }
        pause();
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "a test's own thread, polling what other processes do")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

fn is_running(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z') // a zombie has ended
}

/// The kernel's letter for what a process does.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next() // "pid (name) state ..."
}
