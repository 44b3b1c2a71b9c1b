//! Teardown goes on after an error and returns them all.

use std::error::Error;
use std::fmt;

use super::chain::Chain;

/// Steps of a teardown that failed, each with its cause.
#[derive(Debug, Default)]
pub struct Failures(Vec<(String, Box<dyn Error + Send + Sync>)>);

impl Failures {
    /// No failure yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps the error of `step`, if it is one, and goes on.
    pub fn step<T, E>(&mut self, step: impl Into<String>, result: Result<T, E>) -> Option<T>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push((step.into(), error.into()));
                None
            }
        }
    }

    /// Takes over the failures of a part.
    pub fn merge(&mut self, part: Failures) {
        self.0.extend(part.0);
    }

    /// Whether every step succeeded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an error about a creation adds when undoing it failed as well;
    /// empty when it didn't.
    #[must_use]
    pub fn note(cleanup: Option<&Self>) -> String {
        cleanup.map_or_else(String::new, |failures| {
            format!(" (and cleaning up failed: {failures})")
        })
    }

    /// `Ok` when every step succeeded.
    ///
    /// # Errors
    /// The failures themselves.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (step, error)) in self.0.iter().enumerate() {
            if i > 0 {
                write!(f, "; ")?;
            }
            write!(f, "{step}: {}", Chain(&**error))?;
        }
        Ok(())
    }
}

impl Error for Failures {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_and_names_every_step() {
        let mut failures = Failures::none();
        failures.step("unmount shm", Err::<(), _>(std::io::Error::other("busy")));
        assert_eq!(
            failures.step("remove cgroup", Ok::<_, std::io::Error>(3)),
            Some(3)
        );
        failures.step("CNI DEL", Err::<(), _>(std::io::Error::other("gone")));
        assert_eq!(failures.to_string(), "unmount shm: busy; CNI DEL: gone");
        assert!(failures.into_result().is_err());
    }
}
