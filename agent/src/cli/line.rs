//! Typing a line at a terminal: a text, or a secret of which nothing is shown. Ctrl-C and Escape
//! end it as they end every other question.

use std::io;

use console::{Key, Term, measure_text_width};
use zeroize::Zeroizing;

use super::keys::Keys;
use super::table::clean;

/// What an answer needs of the line to be typed behind the question rather than below it.
const ROOM: usize = 24;

/// A question that is answered with a line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    question: &'a str,
    default: Option<&'a str>,
    may_be_empty: bool,
    is_secret: bool,
    text: Zeroizing<Vec<char>>,
    /// Where in the text the next sign goes.
    at: usize,
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

impl<'a> Line<'a> {
    /// Asks for a text; an empty one is asked for again.
    pub(super) fn text(question: &'a str) -> Self {
        let text = Zeroizing::new(Vec::new());
        Self { question, default: None, may_be_empty: false, is_secret: false, text, at: 0 }
    }

    /// Asks for a secret; an empty one is asked for again.
    pub(super) fn secret(question: &'a str) -> Self {
        // What grows leaves copies of itself behind.
        let text = Zeroizing::new(Vec::with_capacity(4096));
        Self { is_secret: true, text, ..Self::text(question) }
    }

    /// Lets an empty line stand for this.
    pub(super) fn or(self, default: Option<&'a str>) -> Self {
        Self { default, ..self }
    }

    /// Lets the line be empty.
    pub(super) fn or_nothing(self) -> Self {
        Self { may_be_empty: true, ..self }
    }

    /// Begins with this text, to be changed.
    pub(super) fn beginning(mut self, text: &str) -> Self {
        self.text.extend(clean(text).chars());
        self.at = self.text.len();
        self
    }

    /// Lets a person type until it is decided; `None` when the person would rather not.
    pub(super) fn ask(mut self) -> io::Result<Option<String>> {
        let term = Term::stderr();
        let keys = Keys::of(&term)?;
        let mut head = self.head();
        if measure_text_width(&head) + ROOM > usize::from(term.size().1) {
            term.write_line(head.trim_end())?;
            head = "> ".to_owned();
        }
        loop {
            let (shown, back) = self.shown(&head, usize::from(term.size().1));
            term.clear_line()?;
            term.write_str(&shown)?;
            term.move_cursor_left(back)?;
            let step = self.key(&keys.next()?);
            if step == Step::On {
                continue;
            }
            let answer = (step == Step::Done).then(|| self.answer());
            term.clear_line()?;
            term.write_line(&format!("{head}{}", self.told(answer.as_deref())))?;
            return Ok(answer);
        }
    }

    fn head(&self) -> String {
        let sign = if self.question.ends_with('?') { "" } else { ":" };
        match self.default {
            Some(default) => format!("{} [{}]{sign} ", self.question, clean(default)),
            None => format!("{}{sign} ", self.question),
        }
    }

    fn answer(&self) -> String {
        match self.default {
            Some(default) if self.text.is_empty() => default.to_owned(),
            _ => self.text.iter().collect(),
        }
    }

    fn told(&self, answer: Option<&str>) -> String {
        match answer {
            None => "stopped".to_owned(),
            Some("") => String::new(),
            Some(_) if self.is_secret => "(not shown)".to_owned(),
            Some(answer) => clean(answer),
        }
    }

    fn key(&mut self, key: &Key) -> Step {
        match key {
            Key::CtrlC | Key::Escape => return Step::Stopped,
            // Ctrl-D ends the input where there is none.
            Key::Char('\u{4}') if self.text.is_empty() => return Step::Stopped,
            Key::Enter if self.text.is_empty() && self.default.is_none() && !self.may_be_empty => {}
            Key::Enter => return Step::Done,
            Key::ArrowLeft => self.at = self.at.saturating_sub(1),
            Key::ArrowRight => self.at = (self.at + 1).min(self.text.len()),
            Key::Home => self.at = 0,
            Key::End => self.at = self.text.len(),
            Key::Backspace if self.at > 0 => self.cut(self.at - 1, self.at),
            Key::Del if self.at < self.text.len() => self.cut(self.at, self.at + 1),
            // Ctrl-U, Ctrl-K and Ctrl-W, as shells have them.
            Key::Char('\u{15}') => self.cut(0, self.at),
            Key::Char('\u{b}') => self.cut(self.at, self.text.len()),
            Key::Char('\u{17}') => self.cut(self.word(), self.at),
            Key::Char(char) if !char.is_control() => {
                self.text.insert(self.at, *char);
                self.at += 1;
            }
            _ => {}
        }
        Step::On
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.text.drain(from..to);
        self.at = from;
    }

    /// Returns where the word before the cursor begins.
    fn word(&self) -> usize {
        let before = &self.text[..self.at];
        let end = before.iter().rposition(|char| !char.is_whitespace()).unwrap_or(0);
        before[..end].iter().rposition(|char| char.is_whitespace()).map_or(0, |at| at + 1)
    }

    /// Draws the part around the cursor that the line has room for; returns it, and how far behind
    /// the cursor it ends. A line that wraps would be two, and be cleared by half.
    fn shown(&self, head: &str, width: usize) -> (String, usize) {
        if self.is_secret {
            return (head.to_owned(), 0);
        }
        // The cursor stands in a column of its own at the end.
        let mut room = width.saturating_sub(measure_text_width(head) + 1);
        let mut fits = |char: &&char| {
            let wide = measure_text_width(char.encode_utf8(&mut [0; 4]));
            let left = room.checked_sub(wide);
            room = left.unwrap_or(room);
            left.is_some()
        };
        let (before, behind) = self.text.split_at(self.at);
        let first = self.at - before.iter().rev().take_while(&mut fits).count();
        let end = self.at + behind.iter().take_while(&mut fits).count();
        let text: String = self.text[first..end].iter().collect();
        let back: String = self.text[self.at..end].iter().collect();
        (format!("{head}{text}"), measure_text_width(&back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed<'a>(mut line: Line<'a>, keys: &[Key]) -> Line<'a> {
        for key in keys {
            assert_eq!(line.key(key), Step::On, "{key:?}");
        }
        line
    }

    fn chars(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn keys_move_write_and_take_away() {
        let line = typed(Line::text("Name").beginning("one two"), &chars(" three"));
        let keys = [Key::Char('\u{17}'), Key::Home, Key::Del, Key::Char('O'), Key::ArrowRight];
        let line = typed(line, &keys);
        assert_eq!((line.answer().as_str(), line.at), ("One two ", 2));
        let line = typed(line, &[Key::Backspace, Key::Char('\u{b}'), Key::Char('\u{7}')]);
        assert_eq!(line.answer(), "O");
        assert_eq!(typed(line, &[Key::Char('\u{15}'), Key::Backspace, Key::ArrowLeft]).at, 0);
    }

    #[test]
    fn an_empty_line_takes_the_default_or_is_asked_for_again() {
        assert_eq!(Line::text("Name").key(&Key::Enter), Step::On);
        assert_eq!(Line::text("Name").or_nothing().key(&Key::Enter), Step::Done);
        let mut line = Line::text("Name").or(Some("here"));
        assert_eq!((line.key(&Key::Enter), line.answer().as_str()), (Step::Done, "here"));
        assert_eq!(line.head(), "Name [here]: ");
        for key in [Key::CtrlC, Key::Escape, Key::Char('\u{4}')] {
            assert_eq!(Line::text("Name").key(&key), Step::Stopped);
        }
        assert_eq!(typed(Line::text("Name"), &chars("x")).key(&Key::Char('\u{4}')), Step::On);
    }

    #[test]
    fn a_line_never_wraps_and_shows_what_is_around_the_cursor() {
        let mut line = typed(Line::text("N"), &chars(&"0123456789".repeat(9)));
        assert_eq!(line.shown("N: ", 10), ("N: 456789".to_owned(), 0));
        line.key(&Key::ArrowLeft);
        assert_eq!(line.shown("N: ", 10), ("N: 345678".to_owned(), 0));
        line.key(&Key::Home);
        assert_eq!(line.shown("N: ", 10), ("N: 012345".to_owned(), 6));
        let line = typed(Line::text("N"), &chars("日本語"));
        assert_eq!(line.shown("N: ", 8), ("N: 本語".to_owned(), 0));
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let line = typed(Line::secret("Token"), &chars("s3cret"));
        assert_eq!(line.shown("Token: ", 80), ("Token: ".to_owned(), 0));
        assert_eq!(line.told(Some(&line.answer())), "(not shown)");
    }
}
