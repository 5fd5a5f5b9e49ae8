//! Tests of the binary from outside: its arguments, its exit status, the files it writes.

mod admin;
mod beside;
mod check;
mod command_line;
mod demo;
mod hostile;
mod redirected;
mod why;
