//! A term language for scripted failures: `1*off->1*error(no more addresses)->delay(200)->off`.
//!
//! ```text
//! script = term { "->" term }
//! term   = [ COUNT "*" ] action
//! action = "off" | "error(" MESSAGE ")" | "delay(" MILLISECONDS ")" | "exit(" CODE ")" | "hang" | "garbage"
//! ```
//!
//! Calls are numbered from one. A term with a count takes that many calls, one without takes all that
//! follow; past the end everything is `off`. `delay` does its part and then what `off` does.

use std::fmt;

/// What to do in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// What is right.
    Off,
    /// Fail with this message.
    Error(String),
    /// Wait so many milliseconds, then do what is right.
    Delay(u64),
    /// End with this code and without a word.
    Exit(u8),
    /// Never end.
    Hang,
    /// Answer what is not JSON.
    Garbage,
}

/// Actions by the number of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    terms: Vec<(Option<u64>, Action)>,
}

/// A term that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadTerm(String);

impl fmt::Display for BadTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a term: {:?}", self.0)
    }
}

impl std::error::Error for BadTerm {}

impl Script {
    /// Parses a script; an empty one is `off`.
    ///
    /// # Errors
    /// The first term that is none.
    pub fn parse(text: &str) -> Result<Self, BadTerm> {
        let terms = text
            .split("->")
            .map(str::trim)
            .filter(|term| !term.is_empty())
            .map(|term| parse_term(term).ok_or_else(|| BadTerm(term.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// What to do in the call of this number, from one.
    #[must_use]
    pub fn action(&self, call: u64) -> Action {
        let mut before = 0;
        for (count, action) in &self.terms {
            match count {
                Some(count) if call > before + count => before += count,
                Some(_) | None => return action.clone(),
            }
        }
        Action::Off
    }
}

fn parse_term(term: &str) -> Option<(Option<u64>, Action)> {
    // A message may contain an asterisk, so the count is digits before the first one.
    let (count, action) = match term.split_once('*') {
        Some((count, action)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
            (Some(count.parse().ok()?), action)
        }
        _ => (None, term),
    };
    let argument = |name: &str| {
        action
            .strip_prefix(name)?
            .strip_prefix('(')?
            .strip_suffix(')')
    };
    let action = match action {
        "off" => Action::Off,
        "hang" => Action::Hang,
        "garbage" => Action::Garbage,
        _ => argument("error")
            .map(|message| Action::Error(message.to_owned()))
            .or_else(|| Some(Action::Delay(argument("delay")?.parse().ok()?)))
            .or_else(|| Some(Action::Exit(argument("exit")?.parse().ok()?)))?,
    };
    Some((count, action))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(text: &str, calls: u64) -> Vec<Action> {
        let script = Script::parse(text).unwrap();
        (1..=calls).map(|call| script.action(call)).collect()
    }

    #[test]
    fn terms_take_their_calls_in_turn() {
        let error = Action::Error("x*y".to_owned());
        assert_eq!(
            actions("1*off->2*error(x*y)->delay(5)", 5),
            [
                Action::Off,
                error.clone(),
                error,
                Action::Delay(5),
                Action::Delay(5)
            ]
        );
        assert_eq!(actions("1*hang", 2), [Action::Hang, Action::Off]);
        assert_eq!(actions("", 1), [Action::Off]);
        assert_eq!(actions("exit(3)", 1), [Action::Exit(3)]);
        assert_eq!(actions("0*hang->garbage", 1), [Action::Garbage]);
    }

    #[test]
    fn a_bad_term_is_named() {
        for bad in ["on", "delay(x)", "2*", "error", "x*off", "exit(256)"] {
            assert_eq!(
                Script::parse(&format!("off->{bad}")),
                Err(BadTerm(bad.to_owned()))
            );
        }
    }
}
