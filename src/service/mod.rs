//! The CRI services: convert, call, render. CRI types stop here.

pub mod admin;
pub mod convert;
pub mod detach;
pub mod facts;
pub mod image;
pub mod runtime;
pub mod status;
