//! Collects what a tool parser finds. Pure; used by `hermes` and `react`.

use super::ToolEvent;

/// Events not taken yet. Neighbours of one kind become one; white space counts only between texts, not
/// around calls; calls beyond the limit are left out.
pub struct Sink {
    events: Vec<ToolEvent>,
    n_calls: usize,
    max_calls: usize,
    /// White space after the last text, sent if more text follows.
    space: String,
}

impl Sink {
    pub fn new(max_calls: usize) -> Self {
        Self { events: Vec::new(), n_calls: 0, max_calls, space: String::new() }
    }

    pub fn text(&mut self, text: &str) {
        let kept = text.trim_end();
        if !kept.is_empty() {
            let space = std::mem::take(&mut self.space);
            self.push_text(&space);
            self.push_text(kept);
        }
        self.space.push_str(&text[kept.len()..]);
    }

    /// A call begins.
    pub fn call(&mut self, name: &str) {
        self.space.clear();
        self.n_calls += 1;
        if self.n_calls <= self.max_calls {
            self.events.push(ToolEvent::Call(name.into()));
        }
    }

    /// More arguments of the current call.
    pub fn arguments(&mut self, text: &str) {
        match self.events.last_mut() {
            _ if text.is_empty() || self.n_calls > self.max_calls => {}
            Some(ToolEvent::Arguments(last)) => last.push_str(text),
            _ => self.events.push(ToolEvent::Arguments(text.into())),
        }
    }

    pub fn take(&mut self) -> Vec<ToolEvent> {
        std::mem::take(&mut self.events)
    }

    /// The rest; an answer without calls keeps the white space at its end.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        let space = std::mem::take(&mut self.space);
        if self.n_calls == 0 {
            self.push_text(&space);
        }
        self.take()
    }

    fn push_text(&mut self, text: &str) {
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(ToolEvent::Text(last)) => last.push_str(text),
            _ => self.events.push(ToolEvent::Text(text.into())),
        }
    }
}
