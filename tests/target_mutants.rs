//! Files that break the row of their target, each in one way: what the checker must see.
