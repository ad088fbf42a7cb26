//! One test or more for each rule: before, as nodes; after, as text.
