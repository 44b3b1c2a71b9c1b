//! Domain errors to gRPC codes: the only place that names them.

use tonic::Status;

use super::convert::BadRequest;
use crate::base::chain::chain;
use crate::container::spec::SpecError;
use crate::container::{self, ContainerError};
use crate::image::{ErrorKind, ImageError, PullError};
use crate::sandbox::{LookupError, SandboxError};

/// The answer of an RPC that isn't done yet.
///
/// # Errors
/// Always `Unimplemented`, naming the RPC.
pub fn not_yet<T>(rpc: &'static str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{rpc} is not implemented yet"
    )))
}

impl From<BadRequest> for Status {
    fn from(error: BadRequest) -> Self {
        Self::invalid_argument(chain(&error))
    }
}

impl From<SandboxError> for Status {
    fn from(error: SandboxError) -> Self {
        let text = chain(&error);
        match error {
            SandboxError::Invalid { .. } | SandboxError::UnknownRuntimeHandler { .. } => {
                Self::invalid_argument(text)
            }
            SandboxError::Unsupported { .. } | SandboxError::Denied { .. } => {
                Self::failed_precondition(text)
            }
            SandboxError::AlreadyExists { .. } => Self::already_exists(text),
            SandboxError::Create(_) | SandboxError::Release { .. } | SandboxError::Id(_) => {
                Self::internal(text)
            }
            SandboxError::Ended { .. } => Self::unavailable(text),
        }
    }
}

impl From<ImageError> for Status {
    fn from(error: ImageError) -> Self {
        image(error.kind(), chain(&error))
    }
}

impl From<PullError> for Status {
    fn from(error: PullError) -> Self {
        image(error.cause.kind(), chain(&error))
    }
}

/// kubelet finds its reasons (`RegistryUnavailable`) at the start of a message,
/// and strips the code from none but `Unknown`, so that is the code that they
/// have to have.
fn image(kind: ErrorKind, text: String) -> Status {
    match kind {
        ErrorKind::Invalid => Status::invalid_argument(text),
        ErrorKind::NotFound => Status::not_found(text),
        ErrorKind::Denied => Status::permission_denied(text),
        ErrorKind::Unavailable => Status::unknown(format!("RegistryUnavailable: {text}")),
        ErrorKind::Content => Status::data_loss(text),
        ErrorKind::Unsupported => Status::failed_precondition(text),
        ErrorKind::NoSpace => Status::resource_exhausted(text),
        ErrorKind::Internal => Status::internal(text),
    }
}

impl From<LookupError> for Status {
    fn from(error: LookupError) -> Self {
        let text = chain(&error);
        match error {
            LookupError::NotFound(_) => Self::not_found(text),
            LookupError::Ambiguous { .. } | LookupError::Empty => Self::invalid_argument(text),
        }
    }
}

impl From<container::LookupError> for Status {
    fn from(error: container::LookupError) -> Self {
        let text = chain(&error);
        match error {
            container::LookupError::NotFound(_) => Self::not_found(text),
            container::LookupError::Ambiguous { .. } | container::LookupError::Empty => {
                Self::invalid_argument(text)
            }
        }
    }
}

impl From<SpecError> for Status {
    fn from(error: SpecError) -> Self {
        let text = chain(&error);
        match error {
            SpecError::Invalid { .. } => Self::invalid_argument(text),
            SpecError::Unsupported { .. } => Self::failed_precondition(text),
        }
    }
}

impl From<ContainerError> for Status {
    fn from(error: ContainerError) -> Self {
        let text = chain(&error);
        match error {
            ContainerError::Spec(error) => error.into(),
            ContainerError::Lookup(error) => error.into(),
            ContainerError::PodLookup(error) => error.into(),
            ContainerError::Sandbox(error) => error.into(),
            ContainerError::ImageNotFound { .. } => Self::not_found(text),
            ContainerError::PodNotReady { .. } | ContainerError::Denied { .. } => {
                Self::failed_precondition(text)
            }
            ContainerError::AlreadyExists { .. } => Self::already_exists(text),
            ContainerError::DeadlineExceeded { .. } => Self::deadline_exceeded(text),
            ContainerError::Create(_)
            | ContainerError::Runtime { .. }
            | ContainerError::OutlivesKill { .. }
            | ContainerError::Release { .. }
            | ContainerError::Pod { .. }
            | ContainerError::Id(_) => Self::internal(text),
            ContainerError::Ended { .. } => Self::unavailable(text),
        }
    }
}
