//! Domain errors to gRPC codes: the only place that names them.

use tonic::Status;

use super::convert::BadRequest;
use crate::base::chain::chain;

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
