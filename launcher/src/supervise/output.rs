//! What a child writes: read line by line from the one pipe that carries its stdout and stderr in
//! their order, and passed on to the launcher's stdout.
//!
//! A line that is a log event passes as it is. Anything else (the last `Error: ...`, a panic, output
//! of a library) passes as it is in text mode, is wrapped as an event in JSON mode, and is kept:
//! its tail explains a failure. Reading must stay safe to cancel, as it runs inside a `select!`.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

use super::policy::Role;

/// A longer line is passed on in pieces.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Lines that are no log events, kept for the report of a failure.
const TAIL_LINES: usize = 40;

/// The reading end of a child's output.
#[derive(Debug)]
pub struct OutputLines {
    reader: BufReader<pipe::Receiver>,
    partial: Vec<u8>,
}

impl OutputLines {
    /// Reads from the pipe whose other end the child holds.
    ///
    /// # Errors
    /// When the descriptor is not the reading end of a pipe.
    pub fn new(pipe: OwnedFd) -> std::io::Result<Self> {
        let reader = BufReader::new(pipe::Receiver::from_owned_fd(pipe)?);
        Ok(Self { reader, partial: Vec::new() })
    }

    /// The next line without its end, `None` once every holder of the other end has closed it.
    /// Safe to cancel: a line read in part is continued by the next call.
    pub async fn next(&mut self) -> Option<String> {
        let room = MAX_LINE_BYTES.saturating_sub(self.partial.len() as u64).max(1);
        let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.partial).await;
        if matches!(read, Ok(0) | Err(_)) && self.partial.is_empty() {
            return None;
        }
        let line = std::mem::take(&mut self.partial);
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// The last lines of a child that were not log events.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    fn push(&mut self, line: &str) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    /// Oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The child's own explanation: its last `Error: ...` line, else a panic's message (the line after
    /// its place; notes and a backtrace follow), else the last line with any text.
    pub fn explanation(&self) -> Option<&str> {
        let has_text = |line: &&str| !line.trim().is_empty();
        let own = self.lines().filter_map(|line| line.strip_prefix("Error: ")).last();
        let panic = || self.lines().skip_while(|line| !line.contains("panicked at ")).skip(1).find(has_text);
        own.or_else(panic).or_else(|| self.lines().filter(has_text).last())
    }
}

/// Passes a child's line on; `tail` takes it when it is no log event.
pub fn forward(role: Role, line: &str, json_output: bool, tail: &mut Tail) {
    let is_event = is_log_event(line);
    if !is_event {
        tail.push(line);
    }
    if is_event || !json_output {
        // Nobody is left to read our output: that is no reason to stop serving.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    } else if !line.is_empty() {
        match role {
            Role::Shard => tracing::warn!(target: "text_generation_shard", "{line}"),
            Role::Router => tracing::warn!(target: "text_generation_router", "{line}"),
        }
    }
}

/// Whether a line was written by a logger: a JSON object, or text that starts with a timestamp.
fn is_log_event(line: &str) -> bool {
    let is_json = line.starts_with("{\"") && line.ends_with('}');
    is_json || line.get(..11).is_some_and(is_date_and_t)
}

fn is_date_and_t(start: &str) -> bool {
    start.bytes().zip("0000-00-00T".bytes()).all(|(found, pattern)| match pattern {
        b'0' => found.is_ascii_digit(),
        _ => found == pattern,
    })
}

/// Whether this is the router's event `Connected`: from now on requests are answered.
pub fn is_connected(line: &str) -> bool {
    if line.starts_with('{') {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let message = event.get("message").or_else(|| event.pointer("/fields/message"));
        return message.and_then(serde_json::Value::as_str) == Some("Connected");
    }
    is_log_event(line) && line.trim_end().ends_with(": Connected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let cases = [
            ("2026-01-02T03:04:05.678901Z  INFO shard: loaded", true),
            (r#"{"timestamp":"2026-01-02T03:04:05Z","level":"INFO"}"#, true),
            ("Error: config.json is missing", false),
            ("thread 'main' panicked at src/main.rs:1:1:", false),
            ("{not json", false),
            ("2026-01-02", false),
            ("ééééééééé", false),
            ("", false),
        ];
        for (line, expected) in cases {
            assert_eq!(is_log_event(line), expected, "{line}");
        }
    }

    #[test]
    fn connected() {
        let cases = [
            ("2026-01-02T03:04:05.678901Z  INFO text_generation_router::server: Connected", true),
            (r#"{"timestamp":"x","level":"INFO","message":"Connected","target":"t"}"#, true),
            (r#"{"timestamp":"x","level":"INFO","fields":{"message":"Connected"}}"#, true),
            (r#"{"timestamp":"x","level":"INFO","message":"Connecting"}"#, false),
            ("2026-01-02T03:04:05.678901Z  WARN router: not Connected", false),
            ("Connected", false),
            ("{", false),
        ];
        for (line, expected) in cases {
            assert_eq!(is_connected(line), expected, "{line}");
        }
    }

    #[test]
    fn explanations() {
        let place = "thread 'main' (7) panicked at src/main.rs:1:1:";
        let cases: [(&[&str], Option<&str>); 6] = [
            (
                &["note", place, "index out of bounds", "stack backtrace:", "   0: main"],
                Some("index out of bounds"),
            ),
            (&[place], Some(place)),
            (&["a", "Error: first", "Error: the cause", "note"], Some("the cause")),
            (&["thread panicked", "reason", ""], Some("reason")),
            (&[""], None),
            (&[], None),
        ];
        for (lines, expected) in cases {
            let mut tail = Tail::default();
            lines.iter().for_each(|line| tail.push(line));
            assert_eq!(tail.explanation(), expected, "{lines:?}");
        }
        let mut tail = Tail::default();
        (0..100).for_each(|i| tail.push(&i.to_string()));
        assert_eq!((tail.lines().next(), tail.lines().count()), (Some("60"), TAIL_LINES));
    }

    #[tokio::test]
    async fn lines_in_pieces_without_end_and_not_utf8() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let mut lines = OutputLines::new(reader.into()).expect("a pipe");
        writer.write_all(b"one\r\ntw").expect("written");
        assert_eq!(lines.next().await.as_deref(), Some("one"));
        let cancelled = tokio::time::timeout(std::time::Duration::ZERO, lines.next()).await;
        assert!(cancelled.is_err());
        writer.write_all(b"o\n\n\xff\n").expect("written");
        writer.write_all(&vec![b'x'; 60_000]).expect("written");
        drop(writer);
        assert_eq!(lines.next().await.as_deref(), Some("two"));
        assert_eq!(lines.next().await.as_deref(), Some(""));
        assert_eq!(lines.next().await.as_deref(), Some("\u{fffd}"));
        assert_eq!(lines.next().await.map(|line| line.len()), Some(60_000));
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let mut lines = OutputLines::new(reader.into()).expect("a pipe");
        let wrote = std::thread::spawn(move || writer.write_all(&vec![b'x'; 100_000]));
        assert_eq!(lines.next().await.map(|line| line.len()), Some(64 << 10));
        assert_eq!(lines.next().await.map(|line| line.len()), Some(100_000 - (64 << 10)));
        assert_eq!(lines.next().await, None);
        wrote.join().expect("no panic").expect("written");
    }
}
