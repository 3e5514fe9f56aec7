//! Traces: what runs did, as spans for a collector of OpenTelemetry.
//!
//! Job: every run that ends becomes the spans of one trace (`spans.rs`), in OTLP's JSON (`otlp.rs`), posted to where the
//! configuration says (`target.rs`). `export.rs` follows the feed of all runs with a cursor of its own, so that the store
//! is the queue: nothing waits for a collector, and a server that was killed leaves nothing that the next one does not
//! find. Owns: that cursor. Never: calls anybody unless it was told whom; touches a run; sends what an agent said, what a
//! tool was given or gave back, or a variable.

mod export;
mod otlp;
mod spans;
mod target;

pub use export::Exporter;
pub use spans::{Attribute, Fold, Note, Span};
pub use target::{Mistake, Target};
