//! The decisions against naive evaluators, which do the same without anything that makes it fast.

mod authorization;
mod matching;
