/// A request that no spec can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The request contradicts itself or the image. (gRPC InvalidArgument)
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of `ContainerConfig`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// This node, or this version, can't do it. (gRPC FailedPrecondition)
    #[error("{field}: {problem}")]
    Unsupported {
        /// The field of `ContainerConfig`.
        field: &'static str,
        /// What is missing.
        problem: String,
    },
}

impl SpecError {
    pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            problem: problem.into(),
        }
    }

    pub(crate) fn unsupported(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Unsupported {
            field,
            problem: problem.into(),
        }
    }
}
