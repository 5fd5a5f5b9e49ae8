//! Tests of the proxy from outside.

mod corpus;
