//! The shim's binary; see the library for what it is made of.

use longshore_shim as _;

fn main() {}
