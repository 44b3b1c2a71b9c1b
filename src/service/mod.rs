//! The CRI services: convert, call, render.

pub mod convert;
