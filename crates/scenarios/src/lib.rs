//! Stories of the whole mesh, told with `testkit`; see `tests/all`.
