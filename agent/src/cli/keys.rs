//! The keys that a person presses. The terminal shows nothing of them by itself meanwhile, not
//! even of those that come while nobody reads: a secret may be pasted. It is as it was afterwards,
//! unless a signal ends the process meanwhile: then it is the shell that puts it right.

use std::io;

use console::{Key, Term};

/// Reads keys from the terminal; dropping it leaves the terminal as it was.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    term: &'a Term,
    #[cfg(unix)]
    before: rustix::termios::Termios,
}

impl<'a> Keys<'a> {
    /// Silences the terminal: to be done before anything is asked, for an answer may come at once.
    #[cfg(unix)]
    pub(super) fn of(term: &'a Term) -> io::Result<Self> {
        use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.make_raw();
        // Lines that we write still end as lines do.
        silent.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Drain, &silent)?;
        Ok(Self { term, before })
    }

    /// A console shows nothing of the keys that are read one by one.
    #[cfg(not(unix))]
    pub(super) fn of(term: &'a Term) -> io::Result<Self> {
        Ok(Self { term })
    }

    /// Waits for a key that we know; Ctrl-C is one.
    pub(super) fn next(&self) -> io::Result<Key> {
        loop {
            match self.term.read_key_raw()? {
                Key::UnknownEscSeq(sequence) => self.skip(&sequence)?,
                key => return Ok(key),
            }
        }
    }

    /// Passes over the rest of a sequence that is longer than what `console` reads of it: else
    /// Ctrl-Right would type `5C`.
    fn skip(&self, sequence: &[char]) -> io::Result<()> {
        if !goes_on(sequence) {
            return Ok(());
        }
        while let Key::Char(char) = self.term.read_key_raw()? {
            if is_final(char) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
impl Drop for Keys<'_> {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};

        // The terminal may be gone.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Tells whether there is more to come behind an escape and these signs (ECMA-48 §5.4; `O` stands
/// before one more).
fn goes_on(sequence: &[char]) -> bool {
    match sequence {
        ['[' | 'O'] => true,
        ['[', .., last] => !is_final(*last),
        _ => false,
    }
}

fn is_final(char: char) -> bool {
    ('@'..='~').contains(&char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_ends_with_its_final_sign() {
        for more in ["[", "O", "[1;", "[15", "[2"] {
            assert!(goes_on(&more.chars().collect::<Vec<_>>()), "{more}");
        }
        for whole in ["b", "[[A", "[M", "[200~"] {
            assert!(!goes_on(&whole.chars().collect::<Vec<_>>()), "{whole}");
        }
    }
}
