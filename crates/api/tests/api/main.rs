//! What a client may rely on, in process and with the real `kubectl`.

mod admission;
mod bad_input;
mod certificates;
mod compaction;
mod conversions;
mod converted;
mod definitions;
mod documents;
mod fuzz;
mod histories;
mod impersonation;
mod kinds;
mod kubectl;
mod limits;
mod options;
mod parts;
mod pods;
mod queries;
mod reading;
mod storage;
mod streams;
mod support;
mod tokens;
mod verbs;
mod watching;
mod writes;
