//! What the benchmarks share: peers as processes, a lean HTTP client, and how numbers are shown.
//!
//! **Must never** be what is measured: the client parses no more of an answer than it has to, and peers run as they would
//! elsewhere.

pub mod http;
pub mod load;
pub mod numbers;
pub mod process;
