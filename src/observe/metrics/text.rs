//! In which text metrics are told: OpenMetrics to who asks for it, as Prometheus does, and the plain
//! text that came before it to everybody else, as tools read that know no other.

use std::fmt::{self, Write as _};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Plain,
}

impl Format {
    /// What the caller would rather have, by its `Accept`.
    pub(in crate::observe) fn accepted(accept: &str) -> Self {
        let quality = |name: &str| {
            let types = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next()?.eq_ignore_ascii_case(name);
                let told = parts.find_map(|part| part.strip_prefix("q="));
                is_it.then(|| told.map_or(Some(1.0), |told| told.parse::<f64>().ok()))?
            });
            types.fold(0.0, f64::max)
        };
        let asked = quality("application/openmetrics-text");
        if asked > 0.0 && asked >= quality("text/plain") { Self::OpenMetrics } else { Self::Plain }
    }

    /// The type of the text.
    pub(in crate::observe) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The text, of what writes OpenMetrics.
    pub(super) fn text(self, write: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write(&mut text);
        match self {
            Self::OpenMetrics => text,
            Self::Plain => plain(&text),
        }
    }
}

/// Says the same in plain text: there, a family's name is that of its samples, and units, infos and
/// the end are not told.
fn plain(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (end, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(told, "# HELP {name}{end} {help}");
            }
            let _ = writeln!(told, "# TYPE {name}{end} {kind}");
        } else if !line.starts_with('#') {
            told.push_str(line);
            told.push('\n');
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_openmetrics_gets_it_and_nobody_else() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [
            prometheus,
            "application/openmetrics-text",
            "text/plain, Application/OpenMetrics-Text; version=1.0.0",
        ] {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;q=0.3, text/plain",
        ] {
            assert_eq!(Format::accepted(accept), Format::Plain, "{accept}");
        }
    }

    #[test]
    fn plain_text_says_the_same() {
        let text = "# HELP a_bytes What a is\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
                    a_bytes_total{x=\"# y\"} 1\n# HELP b What b is\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c What c is\n# TYPE c gauge\nc 2\n# EOF\n";
        let expected = "# HELP a_bytes_total What a is\n# TYPE a_bytes_total counter\n\
                        a_bytes_total{x=\"# y\"} 1\n# HELP b_info What b is\n# TYPE b_info gauge\n\
                        b_info{v=\"1\"} 1\n# HELP c What c is\n# TYPE c gauge\nc 2\n";
        assert_eq!(plain(text), expected);
    }
}
