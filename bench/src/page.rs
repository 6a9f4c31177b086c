//! A page that stands alone: headings, tables and plots in one HTML file, with uPlot and all else that
//! it needs in it. It knows nothing of runs. What a page says is in its HTML; scripts draw the plots.

use std::fmt::{Display, Write};

use serde::Serialize;

const UPLOT: &str = include_str!("../vendor/uplot/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("../vendor/uplot/uPlot.min.css");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What the horizontal axis of a plot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// Seconds since the measured part began.
    Time,
    /// 1/(1 - percentile), by powers of ten.
    Percentile,
}

/// A line of a plot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// One for each place of the axis; `None` = there is none.
    pub(crate) values: Vec<Option<f64>>,
}

/// A plot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) axis: Axis,
    pub(crate) unit: &'static str,
    /// By powers of ten; what is 0 is not drawn.
    pub(crate) logarithmic: bool,
    pub(crate) x: Vec<f64>,
    pub(crate) lines: Vec<Line>,
    /// Parts of the axis that are shaded, from and until.
    pub(crate) shaded: Vec<[f64; 2]>,
}

/// A page in the making.
pub(crate) struct Page {
    title: String,
    body: String,
    plots: Vec<Plot>,
}

/// Text as HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A whole number with a comma for each thousand.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whether a cell is aligned as words are, and not as figures.
fn reads_as_text(cell: &str) -> bool {
    let first = cell.chars().next();
    first.is_some_and(char::is_alphabetic) || cell.chars().count() > 40
}

impl Page {
    /// A page with its title as heading.
    pub(crate) fn new(title: &str) -> Self {
        let mut page = Self {
            title: title.into(),
            body: String::new(),
            plots: Vec::new(),
        };
        page.push(format_args!("<h1>{}</h1>", escape(title)));
        page
    }

    fn push(&mut self, html: impl Display) {
        // A string takes all that is written to it.
        let _ = writeln!(self.body, "{html}");
    }

    pub(crate) fn heading(&mut self, text: &str) {
        self.push(format_args!("<h2>{}</h2>", escape(text)));
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>", escape(text)));
    }

    /// A word on the whole, good or bad, and what it comes from.
    pub(crate) fn verdict(&mut self, good: bool, word: &str, reasons: &[String]) {
        let class = if good { "good" } else { "bad" };
        let word = escape(word);
        self.push(format_args!(
            "<p class=\"verdict {class}\"><strong>{word}</strong></p>"
        ));
        self.list(reasons);
    }

    pub(crate) fn list(&mut self, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.push("<ul>");
        for item in items {
            self.push(format_args!("<li>{}</li>", escape(item)));
        }
        self.push("</ul>");
    }

    /// A table: the first cell of a row is its heading.
    pub(crate) fn table(&mut self, caption: &str, columns: &[&str], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        let caption = escape(caption);
        self.push(format_args!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\
             <table><caption>{caption}</caption><thead><tr>"
        ));
        for column in columns {
            // Over the headings of the rows there is nothing to say.
            self.push(match column.is_empty() {
                true => "<td></td>".to_owned(),
                false => format!("<th scope=\"col\">{}</th>", escape(column)),
            });
        }
        self.push("</tr></thead><tbody>");
        for row in rows {
            self.push("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                self.push(match at {
                    0 => format!("<th scope=\"row\">{cell}</th>"),
                    _ if reads_as_text(&cell) => format!("<td class=\"text\">{cell}</td>"),
                    _ => format!("<td>{cell}</td>"),
                });
            }
            self.push("</tr>");
        }
        self.push("</tbody></table></div>");
    }

    /// A plot, unless it has nothing to show.
    pub(crate) fn plot(&mut self, plot: Plot) {
        let value = |line: &Line| line.values.iter().flatten().any(|value| *value > 0.0);
        if plot.x.len() < 2 || !plot.lines.iter().any(value) {
            return;
        }
        let (at, title) = (self.plots.len(), escape(&plot.title));
        self.push(format_args!(
            "<figure><figcaption>{title}</figcaption>\
             <div class=\"plot\" id=\"plot-{at}\"></div></figure>"
        ));
        self.plots.push(plot);
    }

    /// The page as one HTML file, with its scripts and data inside.
    pub(crate) fn finish(self) -> String {
        let title = escape(&self.title);
        // In a script element the text must not look like the end of it.
        let plots = serde_json::to_string(&self.plots)
            .unwrap_or_else(|_| "[]".into())
            .replace('<', "\\u003c");
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n\
             <style>{UPLOT_STYLE}\n{STYLE}</style></head>\n<body><main>\n{}</main>\n\
             <script type=\"application/json\" id=\"plots\">{plots}</script>\n\
             <script>{UPLOT}</script>\n<script>{SCRIPT}</script>\n</body></html>\n",
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_stays_text() {
        let nasty = "</script><img src=x onerror=\"alert(1)\">&";
        let mut page = Page::new(nasty);
        page.table("what", &["a", nasty], &[vec![nasty.into(), nasty.into()]]);
        page.list(&[nasty.into()]);
        page.plot(Plot {
            title: nasty.into(),
            axis: Axis::Time,
            unit: "ms",
            logarithmic: false,
            x: vec![0.0, 1.0],
            lines: vec![Line {
                name: nasty.into(),
                values: vec![Some(1.0), None],
            }],
            shaded: Vec::new(),
        });
        let html = page.finish();
        assert!(!html.contains("<img") && html.matches("</script>").count() == 3);
        assert!(
            html.contains("&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;")
        );
    }

    #[test]
    fn numbers_are_read_by_thousands() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
