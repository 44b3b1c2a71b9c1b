//! Another process in the container, equal to init in all but its arguments.
