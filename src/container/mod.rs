//! Containers: one task owns each, one shim runs it.
//!
//! ```text
//! CreateContainer
//!      |
//!  Creating{stage} --fails--> Gone (undone; listed as exited where that failed)
//!      |
//!   Created --start--> Running --stop--> Stopping{Grace} --deadline--+
//!      |                  |                    |                     v
//!      +-------stop-------|--------------------|-------> Stopping{Killing} --1 s-+
//!      |                  |                    |             |        ^----------+
//!      +-- start fails ---+------ init ends ---+-------------+
//!                                 |
//!                              Exited --remove--> Gone
//! ```
//!
//! Others queue requests for the owner ([`driver`](self)) and read the last
//! published [`ContainerView`]. The record is written before the first effect;
//! `teardown::destroy` undoes a container by id, whether a creation failed,
//! the daemon died, or it is removed. Layers below are reached through
//! [`ports`].

mod below;
mod containers;
mod create;
mod driver;
mod error;
mod exec;
#[cfg(test)]
mod fake;
mod logs;
pub mod model;
mod pod;
pub mod ports;
mod record;
mod recover;
mod resolve;
mod shim;
pub mod spec;
mod state;
mod stop;
mod table;
mod teardown;
mod view;
mod world;

#[cfg(test)]
mod tests;

pub use containers::{Containers, OpenError};
pub use error::{ContainerError, CreateError, LookupError, StepError};
pub use ports::{ExecOutput, RuntimeError};
pub use state::{Denied, Exit, ExitReason, Phase, Stage, Stop};
pub use view::{ContainerHandle, ContainerState, ContainerView};
pub use world::ContainersConfig;
