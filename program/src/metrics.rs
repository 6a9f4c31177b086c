//! A page of metrics, written by `prometheus-client` from numbers that the program counted itself:
//! as OpenMetrics 1.0 for who asks for it, else in the text format 0.0.4 of Prometheus. A metric has
//! the same names in both.

use std::fmt;

use keys::Fetches;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::{MetricType, info::Info},
    registry::{Metric, Registry},
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The labels of one value, as name and text.
pub type Labels = Vec<(&'static str, String)>;

/// What a metric's values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What only grows; its name ends in `_total`.
    Counter,
    /// A counter `x_total` beside a gauge `x`: two families of one name to OpenMetrics, to which the
    /// counter is declared as `unknown` therefore.
    CounterBesideGauge,
    /// What rises and falls.
    Gauge,
}

/// A metric without labels: name, kind, help and value, or how that is had.
pub type Number<V = u64> = (&'static str, Kind, &'static str, V);

/// A table of [`Number`]s, each as `"name" Kind "Help." => value;`.
#[macro_export]
macro_rules! numbers {
    ($($name:literal $kind:ident $help:literal => $value:expr;)+) => {
        [$(($name, $crate::metrics::Kind::$kind, $help, $value)),+]
    };
}

/// How often durations fell between fixed bounds.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Upper bounds of the buckets, µs, ascending.
    bounds: &'static [u64],
    /// The count of each bucket; one more than there are bounds.
    counts: Vec<u64>,
    sum_us: u64,
}

impl Histogram {
    /// An empty one with these upper bounds, µs, in ascending order.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum_us: 0,
        }
    }

    /// Counts a duration, µs.
    pub fn record(&mut self, us: u64) {
        self.record_many(us, 1);
    }

    /// Counts a duration, µs, as if it had been recorded so many times.
    pub fn record_many(&mut self, us: u64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < us);
        self.counts[bucket] += times;
        self.sum_us += us * times;
    }

    /// Adds what another of the same bounds counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_us += other.sum_us;
    }

    /// The time that this share, 0 to 1, of what was recorded since `before` kept within, µs: as if
    /// the times of a bucket lay evenly in it; 0 = nothing was recorded.
    #[must_use]
    pub fn quantile_since(&self, before: &Self, share: f64) -> u64 {
        let counts: Vec<u64> = (self.counts.iter().zip(&before.counts))
            .map(|(count, before)| count.saturating_sub(*before))
            .collect();
        let wanted = share * counts.iter().sum::<u64>() as f64;
        let (mut below, mut passed) = (0, 0.0);
        for (bound, count) in self.bounds.iter().zip(counts) {
            let count = count as f64;
            if count > 0.0 && passed + count >= wanted {
                let part = (wanted - passed) / count;
                return below + (part * (bound - below) as f64) as u64;
            }
            (below, passed) = (*bound, passed + count);
        }
        // What lies beyond the last bound is somewhere above it.
        if wanted > 0.0 { below } else { 0 }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().map(|us| *us as f64 / 1e6);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(self.counts.iter().copied())
            .collect();
        let (sum, count) = (self.sum_us as f64 / 1e6, self.counts.iter().sum());
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Values read at the time of the scrape.
#[derive(Debug)]
struct Sampled {
    kind: MetricType,
    values: Vec<(Labels, f64)>,
}

impl EncodeMetric for Sampled {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in &self.values {
            let mut line = encoder.encode_family(labels)?;
            // A double holds every whole number that a count of ours reaches.
            let whole = *value as u64;
            match self.kind {
                MetricType::Counter => line.encode_counter::<NoLabelSet, _, u64>(&whole, None)?,
                _ if (whole as f64).to_bits() == value.to_bits() => line.encode_gauge(&whole)?,
                _ => line.encode_gauge(value)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

/// The metrics of one answer.
pub struct Page {
    registry: Registry,
    is_openmetrics: bool,
}

impl Page {
    /// An empty page whose names all start with `prefix` and `_`, in the format that suits `accept`
    /// best: the media ranges of the request (RFC 9110 §12.5.1).
    pub fn new<'a>(prefix: &str, accept: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            registry: Registry::with_prefix(prefix),
            is_openmetrics: prefers_openmetrics(accept),
        }
    }

    /// Metrics without labels.
    pub fn numbers(&mut self, numbers: &[Number]) {
        for (name, kind, help, value) in numbers {
            self.number(name, *kind, help, *value as f64);
        }
    }

    /// A metric without labels.
    pub fn number(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.labelled(name, kind, help, [(Labels::new(), value)]);
    }

    /// A metric with a value for each set of labels.
    ///
    /// # Panics
    /// When a counter's name does not end in `_total`.
    pub fn labelled(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let is_unknown = kind == Kind::CounterBesideGauge && self.is_openmetrics;
        let (name, kind) = match kind {
            Kind::Gauge => (name, MetricType::Gauge),
            _ if is_unknown => (name, MetricType::Unknown),
            // The encoder adds it.
            _ => match name.strip_suffix("_total") {
                Some(name) => (name, MetricType::Counter),
                None => panic!("the name of the counter {name} must end in _total"),
            },
        };
        let values = values.into_iter().collect();
        self.register(name, help, Sampled { kind, values });
    }

    /// A metric with one label.
    pub fn by_word<T: Into<String>>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (T, u64)>,
    ) {
        let line = |(word, count): (T, u64)| (vec![(label, word.into())], count as f64);
        self.labelled(name, kind, help, values.into_iter().map(line));
    }

    /// `build_info`: the release, and under the label `key` who runs it.
    pub fn release(&mut self, version: &str, key: &'static str, id: &str) {
        let labels: Labels = vec![("version", version.into()), (key, id.into())];
        self.register("build", "The release.", Info::new(labels));
    }

    /// The fetches of the keys of tokens, and what waits for them.
    pub fn key_fetches(&mut self, fetches: Fetches) {
        self.numbers(&numbers! {
            "jwks_keys" Gauge "Keys in force that were fetched." => fetches.keys as u64;
            "jwks_waiting" Gauge "Tokens that wait for keys to be fetched."
                => fetches.waiting as u64;
        });
        let help = "Fetches of the keys of tokens (auth.jwks_url).";
        let ended = [("ok", fetches.good), ("failed", fetches.failed)];
        self.by_word("jwks_fetches_total", Kind::Counter, help, "result", ended);
        let help = "Tokens that waited for keys to be fetched, and how that ended.";
        let ended = fetches.waited.by_result();
        self.by_word("jwks_waits_total", Kind::Counter, help, "result", ended);
    }

    /// The distribution of durations; its name ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: Histogram) {
        self.register(name, help, histogram);
    }

    fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        // The encoder ends each help with a full stop.
        let help = help.trim_end_matches('.');
        self.registry.register(name, help, metric);
    }

    /// The page's media type, and the page.
    ///
    /// # Panics
    /// Never: a `String` takes all text.
    #[must_use]
    pub fn finish(self) -> (&'static str, String) {
        let mut page = String::new();
        let (media_type, written) = match self.is_openmetrics {
            true => (OPENMETRICS, text::encode(&mut page, &self.registry)),
            false => (
                prometheus_text::CONTENT_TYPE,
                prometheus_text::encode(&mut page, &self.registry),
            ),
        };
        written.expect("a String takes all text");
        (media_type, page)
    }
}

/// Whether OpenMetrics 1.0 is asked for by name, and plain text is not asked for more.
fn prefers_openmetrics<'a>(accept: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut openmetrics, mut plain) = (0.0, 0.0);
    for range in accept.into_iter().flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0, "1.0.0");
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse::<f32>().unwrap_or(0.0),
                "version" => version = value.trim().trim_matches('"'),
                _ => {}
            }
        }
        match name.as_str() {
            "application/openmetrics-text" if version == "1.0.0" => {
                openmetrics = quality.max(openmetrics);
            }
            "text/plain" => plain = quality.max(plain),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [u64; 3] = [500, 1_000, 30_000_000];

    fn page(accept: &str) -> (&'static str, String) {
        let mut page = Page::new("os", [accept]);
        let labels = |text: &str| vec![("version", text.to_owned())];
        page.release("1", "node", "n");
        page.number("full_total", Kind::CounterBesideGauge, "Refusals.", 3.0);
        page.number("full", Kind::Gauge, "Whether it is full.", 1.0);
        page.number("age_seconds", Kind::Gauge, "Of the newest.", 0.5);
        page.number("read_seconds", Kind::Gauge, "NaN = never.", f64::NAN);
        let answers = [(labels("a\"b\\c\nd"), 4.0), (labels(""), 5.0)];
        page.labelled("answers_total", Kind::Counter, "Answers.", answers);
        page.labelled("none_total", Kind::Counter, "Nothing.", []);
        let mut took = Histogram::new(&BOUNDS);
        let mut more = Histogram::new(&BOUNDS);
        took.record(500);
        more.record(501);
        more.record_many(30_000_001, 2);
        took.add(&more);
        page.histogram("took_seconds", "How long.", took);
        page.finish()
    }

    #[test]
    fn without_a_wish_the_text_format_of_prometheus_is_served() {
        let (media_type, page) = page("*/*");
        assert_eq!(media_type, "text/plain; version=0.0.4; charset=utf-8");
        let expected = r#"# HELP os_build_info The release.
# TYPE os_build_info gauge
os_build_info{version="1",node="n"} 1
# HELP os_full_total Refusals.
# TYPE os_full_total counter
os_full_total 3
# HELP os_full Whether it is full.
# TYPE os_full gauge
os_full 1
# HELP os_age_seconds Of the newest.
# TYPE os_age_seconds gauge
os_age_seconds 0.5
# HELP os_read_seconds NaN = never.
# TYPE os_read_seconds gauge
os_read_seconds NaN
# HELP os_answers_total Answers.
# TYPE os_answers_total counter
os_answers_total{version="a\"b\\c\nd"} 4
os_answers_total{version=""} 5
# HELP os_none_total Nothing.
# TYPE os_none_total counter
# HELP os_took_seconds How long.
# TYPE os_took_seconds histogram
os_took_seconds_bucket{le="0.0005"} 1
os_took_seconds_bucket{le="0.001"} 2
os_took_seconds_bucket{le="30"} 2
os_took_seconds_bucket{le="+Inf"} 4
os_took_seconds_sum 60.001003
os_took_seconds_count 4
"#;
        assert_eq!(page, expected);
    }

    #[test]
    fn openmetrics_has_the_same_names_one_family_each_and_an_end() {
        let (media_type, openmetrics) = page("application/openmetrics-text;version=1.0.0");
        assert_eq!(media_type, OPENMETRICS);
        assert!(openmetrics.ends_with("\n# EOF\n"), "{openmetrics}");
        let declared: Vec<&str> = openmetrics
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let expected = [
            "os_build info",
            "os_full_total unknown",
            "os_full gauge",
            "os_age_seconds gauge",
            "os_read_seconds gauge",
            "os_answers counter",
            "os_none counter",
            "os_took_seconds histogram",
        ];
        assert_eq!(declared, expected);
        let names = |page: &str| {
            let lines = page.lines().filter(|line| !line.starts_with('#'));
            let name = |line: &str| line.split(['{', ' ']).next().map(str::to_owned);
            let mut names: Vec<_> = lines.map(name).collect();
            names.sort();
            names
        };
        assert_eq!(names(&openmetrics), names(&page("text/plain").1));
    }

    #[test]
    fn the_format_follows_what_is_asked_for() {
        // What Prometheus 2.45 and 3.5 send.
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                   version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;\
                   escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, openmetrics) in [
            (old, true),
            (new, true),
            ("Application/OpenMetrics-Text", true),
            ("application/openmetrics-text; version=\"1.0.0\"", true),
            ("", false),
            ("*/*", false),
            ("application/*", false),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("text/plain,application/openmetrics-text;q=0.5", false),
        ] {
            assert_eq!(prefers_openmetrics([accept]), openmetrics, "{accept}");
        }
    }
}
