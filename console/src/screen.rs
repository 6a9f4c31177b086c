//! The live screen of `top`: draws the newest fleet, and takes keys. The server is asked on a thread
//! of its own, so that keys work while it does not answer.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};

use crate::{
    ask::Server,
    columns::{self, COLUMNS},
    fleet::Fleet,
    top::TopError,
};

/// The longest wait for a key before the screen is looked after.
const TICK: Duration = Duration::from_millis(100);
const HELP: &str =
    " q quit  ←→ column  r reverse  c cores  ↑↓ scroll  space pause  1-9 column by number";

/// What is shown and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// The column that the nodes are sorted by.
    pub(crate) column: usize,
    pub(crate) reversed: bool,
    pub(crate) with_cores: bool,
    pub(crate) interval: Duration,
}

/// Shows the fleet until a key ends it. Of a server that does not answer at the start the error is
/// the caller's; later it is shown above the last table.
pub(crate) fn show(server: Server, view: View) -> Result<(), TopError> {
    let fleet = server.fleet()?;
    let (sender, answers) = sync_channel(1);
    let (end, ended) = sync_channel(1);
    let asker = std::thread::Builder::new().name("top".into());
    asker.spawn(move || ask_on(&server, view.interval, &sender, &ended))?;
    let mut screen = Screen {
        view,
        fleet,
        asked: Instant::now(),
        trouble: None,
        paused: false,
        table: TableState::default(),
    };
    let mut terminal = ratatui::try_init()?;
    let shown = screen.run(&mut terminal, &answers);
    ratatui::try_restore()?;
    // The thread may be in the middle of a question; the process's end is its end.
    let _ = end.try_send(());
    shown
}

/// Asks until the screen is gone.
fn ask_on(
    server: &Server,
    interval: Duration,
    answers: &SyncSender<Result<Fleet, TopError>>,
    ended: &Receiver<()>,
) {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(interval) {
        if answers.send(server.fleet()).is_err() {
            return;
        }
    }
}

struct Screen {
    view: View,
    fleet: Fleet,
    /// When the fleet was told last.
    asked: Instant,
    /// Why it was not told since.
    trouble: Option<String>,
    paused: bool,
    table: TableState,
}

impl Screen {
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        answers: &Receiver<Result<Fleet, TopError>>,
    ) -> Result<(), TopError> {
        loop {
            while let Ok(answer) = answers.try_recv() {
                self.take(answer);
            }
            columns::sort(&mut self.fleet, self.view.column, self.view.reversed);
            terminal.draw(|frame| self.draw(frame))?;
            if event::poll(TICK)?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && self.press(key)
            {
                return Ok(());
            }
        }
    }

    fn take(&mut self, answer: Result<Fleet, TopError>) {
        match answer {
            // What came while it stands still is seen at the next look.
            _ if self.paused => {}
            Ok(fleet) => {
                self.fleet = fleet;
                self.asked = Instant::now();
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// Gives whether the key ends it.
    fn press(&mut self, key: KeyEvent) -> bool {
        let last = COLUMNS.len() - 1;
        let view = &mut self.view;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Right => {
                view.column = if view.column == last {
                    0
                } else {
                    view.column + 1
                }
            }
            KeyCode::Left => view.column = view.column.checked_sub(1).unwrap_or(last),
            KeyCode::Char(digit @ '1'..='9') => view.column = digit as usize - '1' as usize,
            KeyCode::Char('r') => view.reversed = !view.reversed,
            KeyCode::Char('c') => view.with_cores = !view.with_cores,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::PageDown => self.table.select_next(),
            KeyCode::Up | KeyCode::PageUp => self.table.select_previous(),
            KeyCode::Home => self.table.select_first(),
            KeyCode::End => self.table.select_last(),
            _ => {}
        }
        false
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let warnings = self.warnings();
        let height = (warnings.len() as u16).min(frame.area().height / 3);
        let parts = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(height),
            Constraint::Min(2),
            Constraint::Length(1),
        ]);
        let [head, trouble, table, help] = parts.areas(frame.area());
        let strong = Style::new().add_modifier(Modifier::BOLD);
        frame.render_widget(Line::styled(columns::summary(&self.fleet), strong), head);
        let warnings = Paragraph::new(warnings).style(Style::new().fg(Color::Red));
        frame.render_widget(warnings, trouble);
        let rows = table_of(&self.fleet, self.view, table.width);
        frame.render_stateful_widget(rows, table, &mut self.table);
        let mut help_line = vec![Span::raw(HELP)];
        if self.paused {
            help_line.push(Span::styled("  PAUSED", strong));
        }
        let dim = Style::new().add_modifier(Modifier::REVERSED);
        frame.render_widget(Line::from(help_line).style(dim), help);
    }

    fn warnings(&self) -> Vec<Line<'static>> {
        let trouble = self.trouble.as_ref().map(|what| {
            let age = self.asked.elapsed().as_secs();
            Line::raw(format!("this is {age} s old: {what}"))
        });
        let problems = self.fleet.problems.iter();
        let problems = problems.map(|problem| Line::raw(problem.message.clone()));
        trouble.into_iter().chain(problems).collect()
    }
}

/// The width that each name of a node may have.
const NAME: u16 = 16;

/// The columns that fit side by side, each as wide as what is in it: the nodes' names, and others up to
/// the chosen one at least. Names may be cut off, figures never are.
fn fitting(rows: &[columns::Row], chosen: usize, room: u16) -> Vec<(usize, u16)> {
    let widths = columns::widths(rows);
    let width = |at: usize| match (at, widths[at] as u16) {
        (0, widest) => widest.min((room / 4).max(NAME)),
        (_, widest) => widest,
    };
    let from = |first: usize| {
        let mut left = room.saturating_sub(width(0));
        let fits = move |at: usize| {
            left = left.checked_sub(width(at) + 1)?;
            Some((at, width(at)))
        };
        let others = (first..COLUMNS.len()).map_while(fits);
        std::iter::once((0, width(0))).chain(others).collect()
    };
    let shows = |shown: &Vec<(usize, u16)>| shown.iter().any(|(at, _)| *at == chosen);
    let found = (1..=chosen.max(1)).map(from).find(shows);
    found.unwrap_or_else(|| from(chosen.max(1)))
}

fn table_of(fleet: &Fleet, view: View, room: u16) -> Table<'static> {
    let aligned = |column: usize, text: String| {
        let side = match COLUMNS[column].is_word() {
            true => Alignment::Left,
            false => Alignment::Right,
        };
        Cell::from(Text::from(text).alignment(side))
    };
    let rows = columns::rows(fleet, view.with_cores);
    let shown = fitting(&rows, view.column, room);
    let head = shown.iter().map(|(at, _)| {
        let style = match *at == view.column {
            true => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        aligned(*at, COLUMNS[*at].title.to_owned()).style(style)
    });
    let head: Vec<Cell<'_>> = head.collect();
    let rows: Vec<Row<'_>> = rows
        .into_iter()
        .map(|row| {
            let style = match row.state.as_deref() {
                None | Some("left") => Style::new().add_modifier(Modifier::DIM),
                Some("active") => Style::new(),
                Some("dead") => Style::new().fg(Color::Red),
                Some(_) => Style::new().fg(Color::Yellow),
            };
            let cells = shown
                .iter()
                .map(|(at, _)| aligned(*at, row.cells[*at].clone()));
            Row::new(cells).style(style)
        })
        .collect();
    let widths = shown.iter().map(|(_, width)| Constraint::Length(*width));
    Table::new(rows, widths)
        .header(Row::new(head))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Node;
    use ratatui::{Terminal, backend::TestBackend};

    fn screen() -> Screen {
        let node = |name: &str, vnodes| Node {
            node: name.into(),
            state: "active".into(),
            vnodes,
            ..Node::default()
        };
        Screen {
            view: View {
                column: 0,
                reversed: false,
                with_cores: false,
                interval: TICK,
            },
            fleet: Fleet {
                coordinator: "c1".into(),
                nodes: vec![node("a", 10), node("b", 20)],
                ..Fleet::default()
            },
            asked: Instant::now(),
            trouble: None,
            paused: false,
            table: TableState::default(),
        }
    }

    fn drawn(screen: &mut Screen) -> String {
        drawn_in(screen, 150)
    }

    fn drawn_in(screen: &mut Screen, room: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(room, 12)).expect("a screen");
        columns::sort(&mut screen.fleet, screen.view.column, screen.view.reversed);
        terminal
            .draw(|frame| screen.draw(frame))
            .expect("it is drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn keys_sort_and_pause_and_end_it_and_what_fails_stands_above_the_last_table() {
        let mut screen = screen();
        let press = |screen: &mut Screen, code| screen.press(KeyEvent::from(code));
        let text = drawn(&mut screen);
        assert!(
            text.find(" a ").is_none_or(|a| Some(a) < text.find(" b ")),
            "{text}"
        );
        assert!(text.contains("VNODES") && text.contains("q quit"), "{text}");
        // Two columns on: by vnodes, the most first.
        assert!(!press(&mut screen, KeyCode::Right) && !press(&mut screen, KeyCode::Right));
        assert_eq!(COLUMNS[screen.view.column].key, "vnodes");
        drawn(&mut screen);
        assert_eq!(screen.fleet.nodes[0].node, "b");
        press(&mut screen, KeyCode::Char('r'));
        drawn(&mut screen);
        assert_eq!(screen.fleet.nodes[0].node, "a");
        press(&mut screen, KeyCode::Char('6'));
        assert_eq!(COLUMNS[screen.view.column].key, "sessions");
        for _ in 0..6 {
            press(&mut screen, KeyCode::Left);
        }
        assert_eq!(screen.view.column, COLUMNS.len() - 1, "it goes round");
        screen.take(Err(TopError::NoTerminal));
        assert!(drawn(&mut screen).contains("s old: this is no terminal"));
        press(&mut screen, KeyCode::Char(' '));
        screen.take(Ok(Fleet::default()));
        let text = drawn(&mut screen);
        assert!(text.contains("PAUSED") && text.contains("c1"), "{text}");
        press(&mut screen, KeyCode::Char(' '));
        screen.take(Ok(Fleet::default()));
        let text = drawn(&mut screen);
        assert!(
            !text.contains("s old") && text.contains("0 of 0 nodes"),
            "{text}"
        );
        assert!(press(&mut screen, KeyCode::Char('q')) && press(&mut screen, KeyCode::Esc));
    }

    #[test]
    fn figures_are_shown_whole_and_the_chosen_column_always_however_narrow_the_screen() {
        let mut screen = screen();
        for (column, shown) in COLUMNS.iter().enumerate() {
            screen.fleet.nodes[0].vnodes = 1_234_567;
            screen.view.column = column;
            for room in [40, 80, 100, 125, 150] {
                let text = drawn_in(&mut screen, room);
                assert!(
                    text.contains(shown.title),
                    "{} at {room}: {text}",
                    shown.key
                );
                let part = text.contains("234567") && !text.contains("1234567");
                assert!(
                    !part && text.contains("\"a "),
                    "{} at {room}: {text}",
                    shown.key
                );
            }
        }
    }
}
