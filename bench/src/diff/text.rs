//! A comparison for a terminal.

use std::fmt;

use super::{Comparison, shown};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, side) in self.sides.iter().enumerate() {
            let runs = side.rounds.len();
            writeln!(f, "[{}] {}, {runs} run(s)", letter(at), side.name)?;
        }
        for doubt in &self.doubts {
            writeln!(f, "NOTE: {doubt}")?;
        }
        if self.unlike.is_empty() {
            writeln!(f, "machine, options and builds are alike")?;
        } else {
            writeln!(f, "\nnot alike")?;
        }
        for (name, values) in &self.unlike {
            for (at, value) in values.iter().enumerate() {
                let name = if at == 0 { name } else { "" };
                writeln!(f, "  {name:<22} [{}] {value}", letter(at))?;
            }
        }
        for table in &self.tables {
            writeln!(f, "\n{}", table.title)?;
            let rows: Vec<Vec<String>> = table.rows.iter().map(|row| cells(&row.figures)).collect();
            let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
            let width = |column: usize| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(3)
            };
            let widths: Vec<usize> = (0..columns).map(width).collect();
            write!(f, "  {:<22}", "")?;
            for (column, width) in widths.iter().enumerate() {
                let head = match column {
                    0 => "[a]".to_owned(),
                    // The ratio of a side stands after its figure.
                    column if column % 2 == 1 => format!("[{}]", letter(column.div_ceil(2))),
                    _ => String::new(),
                };
                write!(f, "  {head:>width$}")?;
            }
            writeln!(f)?;
            for (row, cells) in table.rows.iter().zip(&rows) {
                write!(f, "  {:<22}", row.name)?;
                for (cell, width) in cells.iter().zip(&widths) {
                    write!(f, "  {cell:>width$}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Of the first side the figure, of the others the figure and its ratio to that.
pub(super) fn cells(figures: &[Option<super::Figure>]) -> Vec<String> {
    let first = figures.first().copied().flatten();
    let mut cells = Vec::new();
    for (at, figure) in figures.iter().enumerate() {
        cells.push(shown(*figure));
        if at > 0 {
            cells.push(Comparison::against(*figure, first));
        }
    }
    cells
}

/// a, b, c …; after z the number.
fn letter(at: usize) -> String {
    match u8::try_from(at) {
        Ok(at @ 0..26) => char::from(b'a' + at).to_string(),
        _ => at.to_string(),
    }
}
