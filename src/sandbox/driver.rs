//! The task that owns one sandbox.

/// What may be asked of the owner.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: super::state::Ask,
}
