//! Choosing at a terminal: one of a list, several, or yes and no. A key that ends it leaves the
//! terminal as it was, Ctrl-C too.

use std::io;

use console::{Key, Term, measure_text_width, truncate_str};

use super::keys::Keys;
use super::table::clean;

/// Lines around the list: the question, what the keys do, and where it goes on.
const FRAME: usize = 4;

/// A question with a list of answers.
#[derive(Debug)]
pub(super) struct Pick<'a> {
    question: &'a str,
    items: &'a [String],
    chosen: Vec<bool>,
    at: usize,
    many: bool,
}

/// What a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It goes on.
    On,
    /// It is decided.
    Done,
    /// The person would rather not.
    Stopped,
}

impl<'a> Pick<'a> {
    /// Asks for one of these.
    pub(super) fn one(question: &'a str, items: &'a [String]) -> Self {
        Self { question, items, chosen: vec![false; items.len()], at: 0, many: false }
    }

    /// Asks for any of these, of which some are chosen already.
    pub(super) fn many(question: &'a str, items: &'a [String], chosen: &[bool]) -> Self {
        let mut chosen = chosen.to_vec();
        chosen.resize(items.len(), false);
        Self { question, items, chosen, at: 0, many: true }
    }

    /// Shows the list until it is decided; `None` when the person would rather not.
    pub(super) fn ask(mut self) -> io::Result<Option<Vec<usize>>> {
        let term = Term::stderr();
        let keys = Keys::of(&term)?;
        let mut shown = 0;
        loop {
            let (rows, width) = term.size();
            let lines = self.lines(rows.into(), width.into());
            term.clear_last_lines(shown)?;
            shown = lines.len();
            for line in &lines {
                term.write_line(line)?;
            }
            let step = self.key(&keys.next()?);
            if step == Step::On {
                continue;
            }
            term.clear_last_lines(shown)?;
            let picked = (step == Step::Done).then(|| self.picked());
            let sign = if self.question.ends_with('?') { "" } else { ":" };
            let told = self.told(picked.as_deref());
            term.write_line(&format!("{}{sign} {told}", self.question))?;
            return Ok(picked);
        }
    }

    fn told(&self, picked: Option<&[usize]>) -> String {
        match picked {
            None => "stopped".to_owned(),
            Some([]) => "nothing".to_owned(),
            Some(picked) => {
                let names = picked.iter().map(|at| clean(&self.items[*at]));
                names.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn picked(&self) -> Vec<usize> {
        if !self.many {
            return vec![self.at];
        }
        (0..self.items.len()).filter(|at| self.chosen[*at]).collect()
    }

    fn key(&mut self, key: &Key) -> Step {
        let last = self.items.len().saturating_sub(1);
        match key {
            Key::CtrlC | Key::Escape | Key::Char('q') => return Step::Stopped,
            Key::Enter => return Step::Done,
            Key::ArrowDown | Key::Tab | Key::Char('j') => {
                self.at = if self.at >= last { 0 } else { self.at + 1 };
            }
            Key::ArrowUp | Key::BackTab | Key::Char('k') => {
                self.at = self.at.checked_sub(1).unwrap_or(last);
            }
            Key::Home => self.at = 0,
            Key::End => self.at = last,
            Key::PageDown => self.at = (self.at + 10).min(last),
            Key::PageUp => self.at = self.at.saturating_sub(10),
            Key::Char(' ') if self.many => {
                if let Some(chosen) = self.chosen.get_mut(self.at) {
                    *chosen = !*chosen;
                }
            }
            Key::Char('a') if self.many => {
                let all = self.chosen.iter().all(|chosen| *chosen);
                self.chosen.fill(!all);
            }
            _ => {}
        }
        Step::On
    }

    /// Draws the question and the part of the list that the terminal has room for.
    fn lines(&self, rows: usize, width: usize) -> Vec<String> {
        let keys = if self.many {
            "space chooses, a all, enter accepts, esc stops"
        } else {
            "enter chooses, esc stops"
        };
        let room = rows.saturating_sub(FRAME).max(1);
        let first = self.at.saturating_sub(room.saturating_sub(1));
        let first = first.min(self.items.len().saturating_sub(room));
        let mut lines = vec![format!("{} ({keys})", self.question)];
        for (at, item) in self.items.iter().enumerate().skip(first).take(room) {
            let item = clean(item);
            let cursor = if at == self.at { '>' } else { ' ' };
            lines.push(match (self.many, self.chosen[at]) {
                (true, true) => format!("{cursor} [x] {item}"),
                (true, false) => format!("{cursor} [ ] {item}"),
                (false, _) => format!("{cursor} {item}"),
            });
        }
        if self.items.len() > room {
            lines.push(format!("  {} of {}", self.at + 1, self.items.len()));
        }
        // A line that wraps would be two, and be cleared by half.
        let fit = |line: String| match measure_text_width(&line) >= width && width > 4 {
            true => truncate_str(&line, width - 1, "…").into_owned(),
            false => line,
        };
        lines.into_iter().map(fit).collect()
    }
}

/// Asks a question whose answer is no unless said otherwise; `None` when the person would rather
/// not answer.
pub(super) fn confirm(question: &str) -> io::Result<Option<bool>> {
    let term = Term::stderr();
    let keys = Keys::of(&term)?;
    term.write_str(&format!("{question} [y/N] "))?;
    loop {
        let answer = match keys.next()? {
            Key::Char('y' | 'Y') => Some(true),
            Key::Char('n' | 'N') | Key::Enter => Some(false),
            Key::CtrlC | Key::Escape => None,
            _ => continue,
        };
        term.write_line(match answer {
            Some(true) => "yes",
            Some(false) => "no",
            None => "stopped",
        })?;
        return Ok(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("item {at}")).collect()
    }

    #[test]
    fn keys_move_and_choose_and_the_ends_meet() {
        let items = items(3);
        let mut pick = Pick::many("Which?", &items, &[false, true]);
        for key in [Key::Char(' '), Key::ArrowUp, Key::Char(' '), Key::ArrowDown] {
            assert_eq!(pick.key(&key), Step::On);
        }
        assert_eq!((pick.at, pick.picked()), (0, vec![0, 1, 2]));
        pick.key(&Key::Char('a'));
        assert_eq!(pick.picked(), [0; 0]);
        assert_eq!(pick.key(&Key::Enter), Step::Done);
        for key in [Key::CtrlC, Key::Escape] {
            assert_eq!(pick.key(&key), Step::Stopped);
        }
        let mut pick = Pick::one("Which?", &items);
        pick.key(&Key::Char(' '));
        pick.key(&Key::End);
        assert_eq!(pick.picked(), [2]);
    }

    #[test]
    fn a_list_longer_than_the_terminal_is_shown_in_part_and_no_line_wraps() {
        let items = items(100);
        let mut pick = Pick::one("Which of all these?", &items);
        for _ in 0..50 {
            pick.key(&Key::ArrowDown);
        }
        let lines = pick.lines(10, 12);
        assert_eq!(lines.len(), 8, "{lines:?}");
        assert!(lines.iter().any(|line| line == "> item 50"), "{lines:?}");
        assert!(lines.iter().all(|line| measure_text_width(line) < 12), "{lines:?}");
        assert_eq!(Pick::one("?", &items[..2]).lines(24, 80).len(), 3);
    }
}
