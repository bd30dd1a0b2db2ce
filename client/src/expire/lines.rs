//! Lines of the log, decided before anything is done.

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A repository was given up.
    Error,
    /// Something may be wrong.
    Warn,
    /// What is done.
    Info,
    /// Why it is done.
    Detail,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How important it is.
    pub level: Level,
    /// The text, perhaps with further lines that begin with `HINT: `.
    pub text: String,
}

impl Line {
    /// A failure in one repository.
    pub fn error(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            level: Level::Error,
            text,
        }
    }

    /// A warning.
    pub fn warn(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            level: Level::Warn,
            text,
        }
    }

    /// A line about what is done.
    pub fn info(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            level: Level::Info,
            text,
        }
    }

    /// A line about the reason.
    pub fn detail(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            level: Level::Detail,
            text,
        }
    }

    /// Logs it.
    pub fn log(&self) {
        match self.level {
            Level::Error => tracing::error!("{}", self.text),
            Level::Warn => tracing::warn!("{}", self.text),
            Level::Info => tracing::info!("{}", self.text),
            Level::Detail => tracing::debug!(target: crate::DETAIL, "{}", self.text),
        }
    }
}
