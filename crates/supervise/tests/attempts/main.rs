//! Attempts from the outside: real shims, real processes, real files.

mod channel;
mod control;
mod endings;
mod faults;
mod groups;
mod reading;
mod rig;
mod stops;
mod wrapped;
