//! A model of pgmesh's catalog as clients see it, small enough to be obviously right.

use std::collections::BTreeSet;
use std::fmt;

use super::Model;

/// The sequential catalog: WAL segments, annotations, stanzas and members.
///
/// Keys are independent here. A history must therefore not delete a stanza whose segments or annotations it also reads.
#[derive(Clone, Copy, Debug)]
pub struct Catalog;

/// The subject of an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// One WAL segment, stanza and all.
    Segment(String),
    /// One annotation of one backup.
    Annotation(String),
    /// One stanza.
    Stanza(String),
    /// The nodes of the mesh. A list shows them all, so they are one key.
    Members,
}

/// An operation on the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Archives a segment. The first content stands for ever: [`Output::Done`] if it is `digest`, else
    /// [`Output::Refused`].
    Push {
        /// Its name.
        segment: String,
        /// The digest of its content.
        digest: String,
    },
    /// Fetches a segment: [`Output::Value`].
    Get {
        /// Its name.
        segment: String,
    },
    /// Sets an annotation, or removes it: [`Output::Done`].
    Annotate {
        /// Its name.
        annotation: String,
        /// Its new value.
        value: Option<String>,
    },
    /// Reads an annotation: [`Output::Value`].
    ReadAnnotation {
        /// Its name.
        annotation: String,
    },
    /// Creates a stanza: [`Output::Done`], also if it exists.
    CreateStanza {
        /// Its name.
        stanza: String,
    },
    /// Deletes a stanza: [`Output::Done`], or [`Output::Refused`] if it does not exist.
    DeleteStanza {
        /// Its name.
        stanza: String,
    },
    /// Reads whether a stanza exists: [`Output::Value`] with any or no content.
    ReadStanza {
        /// Its name.
        stanza: String,
    },
    /// A node joins: [`Output::Done`].
    AddNode {
        /// Its name.
        node: String,
    },
    /// A node is removed: [`Output::Done`], or [`Output::Refused`] if it is no member.
    RemoveNode {
        /// Its name.
        node: String,
    },
    /// Lists the members: [`Output::Members`].
    ListNodes,
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The operation has taken effect, or its effect was there before.
    Done,
    /// The present state forbids the operation, and nothing changed.
    Refused,
    /// The present value, or that there is none: "never archived", "no such annotation", "no such stanza".
    Value(Option<String>),
    /// All members.
    Members(BTreeSet<String>),
}

/// The value that this model gives to a stanza that exists.
const EXISTS: &str = "exists";

impl Output {
    /// The answer to [`Input::ReadStanza`].
    #[must_use]
    pub fn stanza(exists: bool) -> Self {
        Self::Value(exists.then(|| EXISTS.to_owned()))
    }
}

impl Model for Catalog {
    type Key = Key;
    /// Empty, one value, or the names of the members.
    type State = BTreeSet<String>;
    type Input = Input;
    type Output = Output;

    fn key(input: &Input) -> Key {
        match input {
            Input::Push { segment, .. } | Input::Get { segment } => Key::Segment(segment.clone()),
            Input::Annotate { annotation, .. } | Input::ReadAnnotation { annotation } => {
                Key::Annotation(annotation.clone())
            }
            Input::CreateStanza { stanza } | Input::DeleteStanza { stanza } | Input::ReadStanza { stanza } => {
                Key::Stanza(stanza.clone())
            }
            Input::AddNode { .. } | Input::RemoveNode { .. } | Input::ListNodes => Key::Members,
        }
    }

    fn perform(state: &mut BTreeSet<String>, input: &Input) -> Output {
        match input {
            Input::Push { digest, .. } => {
                if state.is_empty() {
                    state.insert(digest.clone());
                }
                done_if(state.contains(digest))
            }
            Input::Annotate { value, .. } => {
                *state = value.iter().cloned().collect();
                Output::Done
            }
            Input::CreateStanza { .. } => {
                state.insert(EXISTS.to_owned());
                Output::Done
            }
            Input::DeleteStanza { .. } => done_if(state.remove(EXISTS)),
            Input::AddNode { node } => {
                state.insert(node.clone());
                Output::Done
            }
            Input::RemoveNode { node } => done_if(state.remove(node)),
            Input::Get { .. } | Input::ReadAnnotation { .. } | Input::ReadStanza { .. } => {
                Output::Value(state.first().cloned())
            }
            Input::ListNodes => Output::Members(state.clone()),
        }
    }
}

fn done_if(done: bool) -> Output {
    if done { Output::Done } else { Output::Refused }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "segment {name}"),
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::Stanza(name) => write!(f, "stanza {name}"),
            Self::Members => f.write_str("the members"),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { segment, digest } => write!(f, "push {segment} with {digest}"),
            Self::Get { segment } => write!(f, "get {segment}"),
            Self::Annotate { annotation, value } => {
                write!(f, "set {annotation} to {}", value.as_deref().unwrap_or("nothing"))
            }
            Self::ReadAnnotation { annotation } => write!(f, "read {annotation}"),
            Self::CreateStanza { stanza } => write!(f, "create {stanza}"),
            Self::DeleteStanza { stanza } => write!(f, "delete {stanza}"),
            Self::ReadStanza { stanza } => write!(f, "look for {stanza}"),
            Self::AddNode { node } => write!(f, "add {node}"),
            Self::RemoveNode { node } => write!(f, "remove {node}"),
            Self::ListNodes => f.write_str("list"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Refused => f.write_str("refused"),
            Self::Value(None) => f.write_str("nothing there"),
            Self::Value(Some(value)) => f.write_str(value),
            Self::Members(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                f.write_str(&names.join(" "))
            }
        }
    }
}
