use std::fmt;

/// The path of a value in the rule, `emits[0].confidence`; formatted only when it is shown.
#[derive(Debug, Default)]
pub(super) struct Path<'t>(Vec<Step<'t>>);

#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'t> {
    Key(&'t str),
    Index(usize),
}

impl<'t> Path<'t> {
    pub(super) fn push(&mut self, step: Step<'t>) {
        self.0.push(step);
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer keys are shortened.
        const LONGEST: usize = 40;
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key)
                    if key.len() <= LONGEST
                        && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') =>
                {
                    write!(f, "{}{key}", if at == 0 { "" } else { "." })?;
                }
                Step::Key(key) => {
                    let short: String = key.chars().take(LONGEST).collect();
                    write!(f, "[{short:?}]")?;
                }
            }
        }
        Ok(())
    }
}
