//! The figures: a table for people, with the spread of repeats, and JSON for the record. Pure.

use serde_json::{Map, Value, json};

pub struct Report {
    commit: String,
    device: String,
    settings: Value,
    /// In the order in which they were measured.
    figures: Vec<(String, Vec<f64>)>,
}

impl Report {
    pub fn new(commit: &str, device: String, settings: Value) -> Self {
        Self { commit: commit.to_owned(), device, settings, figures: Vec::new() }
    }

    /// One more measurement of `name`.
    pub fn add(&mut self, name: &str, value: f64) {
        match self.figures.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.figures.push((name.to_owned(), vec![value])),
        }
    }

    /// A figure that is measured once.
    pub fn single(&mut self, name: &str, value: f64) {
        self.add(name, value);
    }

    pub fn table(&self) -> String {
        let mut text = format!(
            "{} ({})\n{:<28} {:>11} {:>11} {:>11}  n\n",
            self.device, self.commit, "figure", "median", "min", "max"
        );
        for (name, values) in &self.figures {
            let (low, high) =
                values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
            let n = values.len();
            text += &format!("{name:<28} {:>11.3} {low:>11.3} {high:>11.3}  {n}\n", median(values));
        }
        text
    }

    pub fn json(&self) -> String {
        let rounded = |value: f64| (value * 1e4).round() / 1e4;
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(name, values)| (name.clone(), json!(rounded(median(values)))))
            .collect();
        let report = json!({
            "device": self.device,
            "commit": self.commit,
            "settings": self.settings,
            "figures": figures,
        });
        format!("{report:#}\n")
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, expected) in
            [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 2.0, 9.0], 3.0)]
        {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_report_holds_medians_by_name() {
        let mut report = Report::new("abc", "a device".to_owned(), json!({"rows": 8}));
        for value in [3.0, 1.0, 2.0] {
            report.add("speed", value);
        }
        report.single("size", 0.123_456);
        let parsed: Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(
            parsed,
            json!({"device": "a device", "commit": "abc", "settings": {"rows": 8}, "figures": {"speed": 2.0, "size": 0.1235}})
        );
        assert!(report.table().lines().any(|line| line.starts_with("speed") && line.ends_with("  3")));
    }
}
