//! Configuration: one table of options, from which the command line, the environment, the file, the help, the manual
//! page and the completions follow.
//!
//! ```text
//! table ─┬─ command_line ─┐
//!        ├─ environment  ─┼─ resolve ── Config (typed access)
//!        └─ ini ── files ─┘
//! ```
//!
//! The command line wins over the environment, the environment over the file, and in the file `[STANZA:COMMAND]` over
//! `[STANZA]` over `[global:COMMAND]` over `[global]`. The winner counts as a whole, also for options that make lists.

mod access;
mod command;
mod command_line;
mod environment;
mod files;
mod ini;
mod kind;
mod option;
mod passphrase;
mod repositories;
mod resolve;
mod setting;
mod suggest;
pub mod table;
#[cfg(test)]
mod tests;

pub use access::Config;
pub use command::{Argument, COMMANDS, Command, CommandSet, CommandSpec};
pub use command_line::{calls, is_negatable};
pub use environment::variable;
pub use kind::{Kind, Secret, Value, parse_duration, parse_size};
pub use option::{Check, IndexKey, LAST_NUMBER, OptionKey, OptionSpec, Override, Scope, Secrecy};
pub use repositories::DeclaredRepository;
pub use setting::SettingSource;
