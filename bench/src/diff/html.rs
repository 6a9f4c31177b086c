//! A comparison as a page.

use super::{Comparison, text::cells};
use crate::{
    page::Page,
    report::html::{self, LATENCIES},
};

/// The page of a comparison.
pub(super) fn page(comparison: &Comparison) -> String {
    let names: Vec<&str> = comparison.sides.iter().map(|side| &*side.name).collect();
    let mut page = Page::new(&format!("Comparison: {}", names.join(", ")));
    let rows: Vec<Vec<String>> = (comparison.sides.iter())
        .map(|side| {
            let words: Vec<&str> = side.rounds.iter().map(html::word).collect();
            vec![side.name.clone(), words.join(", ")]
        })
        .collect();
    page.table("Sides", &["", "runs"], &rows);
    page.paragraph(
        "A figure is the median of a side's runs, with the lowest and the highest. A ratio is to the \
         first side; it is called within the rounds when the runs of the two overlap.",
    );
    page.heading("Before you believe it");
    if comparison.doubts.is_empty() {
        page.paragraph("No run failed, and no load generator was at its end.");
    }
    page.list(&comparison.doubts);
    if comparison.unlike.is_empty() {
        page.paragraph("Machine, options and builds are alike.");
    }
    let columns = [&[""], &names[..]].concat();
    let rows: Vec<Vec<String>> = (comparison.unlike.iter())
        .map(|(name, values)| [std::slice::from_ref(name), &values[..]].concat())
        .collect();
    page.table("Not alike", &columns, &rows);
    let mut columns = vec![""];
    for (at, name) in names.iter().enumerate() {
        columns.push(name);
        if at > 0 {
            columns.push("to the first");
        }
    }
    for table in &comparison.tables {
        page.heading(table.title);
        let rows: Vec<Vec<String>> = (table.rows.iter())
            .map(|row| [vec![row.name.clone()], cells(&row.figures)].concat())
            .collect();
        page.table(table.title, &columns, &rows);
    }
    page.heading("Latency by percentile");
    for (key, name) in LATENCIES {
        let mut curves = Vec::new();
        for side in &comparison.sides {
            for (round, report) in (1..).zip(&side.rounds) {
                let Some(points) = report.curves.get(key) else {
                    continue;
                };
                let name = match side.rounds.len() {
                    1 => side.name.clone(),
                    _ => format!("{}, run {round}", side.name),
                };
                curves.push((name, &points[..]));
            }
        }
        page.plot(html::percentiles(name, &curves));
    }
    page.finish()
}
